package android.graphics;

public class Canvas {
  public Canvas(Bitmap bitmap) {}

  public void drawColor(int color) {
    throw new UnsupportedOperationException();
  }

  public void drawBitmap(Bitmap bitmap, Rect src, RectF dst, Paint paint) {
    throw new UnsupportedOperationException();
  }
}
