package android.content;

import android.content.res.AssetManager;
import java.io.File;

public abstract class Context {
  public abstract File getFilesDir();

  public abstract AssetManager getAssets();

  public abstract ContentResolver getContentResolver();

  public final String getString(int resId, Object... formatArgs) {
    throw new UnsupportedOperationException();
  }
}
