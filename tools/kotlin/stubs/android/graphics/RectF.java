package android.graphics;

public class RectF {
  public RectF(Rect r) {}
}
