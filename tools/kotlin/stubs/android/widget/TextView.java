package android.widget;

import android.content.Context;
import android.view.View;

public class TextView extends View {
  public TextView(Context context) {
    super(context);
  }

  public CharSequence getText() {
    throw new UnsupportedOperationException();
  }

  public void setText(CharSequence value) {
    throw new UnsupportedOperationException();
  }

  public CharSequence getHint() {
    throw new UnsupportedOperationException();
  }

  public void setHint(CharSequence value) {
    throw new UnsupportedOperationException();
  }

  public final void append(CharSequence text) {
    throw new UnsupportedOperationException();
  }

  public void setTextIsSelectable(boolean selectable) {
    throw new UnsupportedOperationException();
  }
}
