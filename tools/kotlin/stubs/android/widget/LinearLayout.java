package android.widget;

import android.content.Context;
import android.view.ViewGroup;

public class LinearLayout extends ViewGroup {
  public LinearLayout(Context context) {
    super(context);
  }

  public static final int VERTICAL = 1;

  public int getOrientation() {
    throw new UnsupportedOperationException();
  }

  public void setOrientation(int value) {
    throw new UnsupportedOperationException();
  }
}
