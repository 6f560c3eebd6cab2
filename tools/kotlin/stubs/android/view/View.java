package android.view;

import android.content.Context;

public class View {
  public View(Context context) {}

  public void setOnClickListener(OnClickListener listener) {
    throw new UnsupportedOperationException();
  }

  public interface OnClickListener {
    void onClick(View view);
  }
}
