package io.pocketvlm.app;

public final class R {
  public static final class string {
    public static final int budget = 0;
  }
}
