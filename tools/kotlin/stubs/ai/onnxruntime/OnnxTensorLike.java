package ai.onnxruntime;

public abstract class OnnxTensorLike implements OnnxValue {
  private boolean closed;

  OnnxTensorLike() {
    Pipe.OPEN.incrementAndGet();
  }

  void checkClosed() {
    if (closed) {
      throw new IllegalStateException("Trying to use a closed OnnxValue");
    }
  }

  public synchronized boolean isClosed() {
    return closed;
  }

  /** The real one only warns; closing twice is refused here so that tests notice it. */
  @Override
  public synchronized void close() {
    if (closed) {
      throw new IllegalStateException("Closing an already closed tensor.");
    }
    closed = true;
    Pipe.OPEN.decrementAndGet();
  }
}
