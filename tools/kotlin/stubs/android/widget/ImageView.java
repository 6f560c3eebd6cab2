package android.widget;

import android.content.Context;
import android.graphics.Bitmap;
import android.view.View;

public class ImageView extends View {
  public ImageView(Context context) {
    super(context);
  }

  public boolean getAdjustViewBounds() {
    throw new UnsupportedOperationException();
  }

  public void setAdjustViewBounds(boolean value) {
    throw new UnsupportedOperationException();
  }

  public void setImageBitmap(Bitmap bitmap) {
    throw new UnsupportedOperationException();
  }
}
