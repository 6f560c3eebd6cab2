package ai.onnxruntime;

import java.io.IOException;
import java.util.Map;
import java.util.concurrent.atomic.AtomicInteger;

/** Not part of ONNX Runtime: what the stubs ask, which the driver connects to tools/engine_pipe. */
public abstract class Pipe {
  /** Tensors, results, options, sessions and tokenizers that are open. */
  public static final AtomicInteger OPEN = new AtomicInteger();

  private static Pipe connected;

  /** Lets the stubs ask a pipe. */
  public static synchronized void connect(Pipe pipe) {
    connected = pipe;
  }

  /** The pipe that is connected. */
  public static synchronized Pipe get() {
    return connected;
  }

  /** Sends a request, as tools/engine_pipe/engine.py lists them; throws what fails there. */
  public abstract Reply ask(Map<String, ?> header, Map<String, Tensor> tensors)
      throws IOException;

  /** A tensor: what messages call its type, and its numbers in little-endian. */
  public record Tensor(String type, long[] shape, byte[] data) {}

  /** What comes back. */
  public interface Reply {
    long number(String name);

    long[] numbers(String name);

    String text(String name);

    Tensor tensor(String name);
  }
}
