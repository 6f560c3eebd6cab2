package android.widget;

import android.content.Context;
import android.view.View;

public class SeekBar extends View {
  public SeekBar(Context context) {
    super(context);
  }

  public int getMax() {
    throw new UnsupportedOperationException();
  }

  public void setMax(int value) {
    throw new UnsupportedOperationException();
  }

  public int getProgress() {
    throw new UnsupportedOperationException();
  }

  public void setProgress(int value) {
    throw new UnsupportedOperationException();
  }

  public void setOnSeekBarChangeListener(OnSeekBarChangeListener listener) {
    throw new UnsupportedOperationException();
  }

  public interface OnSeekBarChangeListener {
    void onProgressChanged(SeekBar seekBar, int progress, boolean fromUser);

    void onStartTrackingTouch(SeekBar seekBar);

    void onStopTrackingTouch(SeekBar seekBar);
  }
}
