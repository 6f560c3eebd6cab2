package android.app;

import android.content.ContentResolver;
import android.content.Context;
import android.content.Intent;
import android.content.res.AssetManager;
import android.os.Bundle;
import android.view.View;
import java.io.File;

public class Activity extends Context {
  public static final int RESULT_OK = -1;

  protected void onCreate(Bundle savedInstanceState) {}

  protected void onDestroy() {}

  protected void onActivityResult(int requestCode, int resultCode, Intent data) {}

  public void setContentView(View view) {
    throw new UnsupportedOperationException();
  }

  public void startActivityForResult(Intent intent, int requestCode) {
    throw new UnsupportedOperationException();
  }

  public final void runOnUiThread(Runnable action) {
    throw new UnsupportedOperationException();
  }

  @Override
  public File getFilesDir() {
    throw new UnsupportedOperationException();
  }

  @Override
  public AssetManager getAssets() {
    throw new UnsupportedOperationException();
  }

  @Override
  public ContentResolver getContentResolver() {
    throw new UnsupportedOperationException();
  }
}
