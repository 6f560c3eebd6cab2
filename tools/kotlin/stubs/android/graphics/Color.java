package android.graphics;

public class Color {
  public static int rgb(int red, int green, int blue) {
    throw new UnsupportedOperationException();
  }

  public static int argb(int alpha, int red, int green, int blue) {
    throw new UnsupportedOperationException();
  }
}
