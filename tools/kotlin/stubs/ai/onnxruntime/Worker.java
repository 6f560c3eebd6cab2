package ai.onnxruntime;

import java.io.BufferedInputStream;
import java.io.BufferedOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.atomic.AtomicInteger;

/**
 * Not part of ONNX Runtime: the pipe to a child process, which the system property {@code
 * stub.worker} names, and which has the real ONNX Runtime and tokenizers. One request at a time.
 */
public final class Worker {
  /** Tensors, results, options and sessions that are open. */
  public static final AtomicInteger OPEN = new AtomicInteger();

  private static Worker instance;

  public final DataInputStream in;
  public final DataOutputStream out;

  private Worker(String[] command) throws IOException {
    Process child =
        new ProcessBuilder(command).redirectError(ProcessBuilder.Redirect.INHERIT).start();
    in = new DataInputStream(new BufferedInputStream(child.getInputStream(), 1 << 16));
    out = new DataOutputStream(new BufferedOutputStream(child.getOutputStream(), 1 << 16));
  }

  /** The child, started once. */
  public static synchronized Worker get() throws IOException {
    if (instance == null) {
      instance = new Worker(System.getProperty("stub.worker").split("\n"));
    }
    return instance;
  }

  /** Ends a request: null where it succeeded, else the failure's text. */
  public String sent() throws IOException {
    out.flush();
    return in.readBoolean() ? null : readText();
  }

  public void writeText(String text) throws IOException {
    byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
    out.writeInt(bytes.length);
    out.write(bytes);
  }

  public String readText() throws IOException {
    byte[] bytes = new byte[in.readInt()];
    in.readFully(bytes);
    return new String(bytes, StandardCharsets.UTF_8);
  }

  public void writeLongs(long[] values) throws IOException {
    out.writeInt(values.length);
    for (long value : values) {
      out.writeLong(value);
    }
  }

  public long[] readLongs() throws IOException {
    long[] values = new long[in.readInt()];
    for (int i = 0; i < values.length; i++) {
      values[i] = in.readLong();
    }
    return values;
  }
}
