package android.graphics;

import java.io.InputStream;

public class BitmapFactory {
  public static Bitmap decodeStream(InputStream is, Rect outPadding, Options opts) {
    throw new UnsupportedOperationException();
  }

  public static class Options {
    public boolean inJustDecodeBounds;
    public int inSampleSize;
    public boolean inPremultiplied;
    public int outWidth;
    public int outHeight;
  }
}
