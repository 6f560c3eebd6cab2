package ai.onnxruntime;

import ai.onnxruntime.providers.NNAPIFlags;
import java.io.IOException;
import java.util.EnumSet;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;

/** Runs behind the pipe, on the CPU, whatever provider is asked for. */
public class OrtSession implements AutoCloseable {
  private final long number;
  private final SessionOptions options;
  private boolean closed;

  OrtSession(String modelPath, SessionOptions options) throws OrtException {
    options.checkClosed();
    this.options = options;
    Map<String, Object> header = new LinkedHashMap<>();
    header.put("do", "open");
    header.put("path", modelPath);
    // Where no number of threads is asked for, one is enough for small graphs.
    header.put("threads", Math.max(options.threads, 1));
    header.put("provider", options.provider);
    number = asked(header, Map.of()).number("session");
    Pipe.OPEN.incrementAndGet();
  }

  public Result run(Map<String, ? extends OnnxTensorLike> inputs, Set<String> requestedOutputs)
      throws OrtException {
    return run(inputs, requestedOutputs, null);
  }

  public Result run(
      Map<String, ? extends OnnxTensorLike> inputs,
      Set<String> requestedOutputs,
      RunOptions runOptions)
      throws OrtException {
    if (closed) {
      throw new IllegalStateException("Trying to score a closed OrtSession.");
    }
    options.checkClosed();
    if (runOptions != null && runOptions.isTerminated()) {
      throw new OrtException("Exiting due to terminate flag being set to true.");
    }
    Map<String, Pipe.Tensor> sent = new LinkedHashMap<>();
    for (Map.Entry<String, ? extends OnnxTensorLike> each : inputs.entrySet()) {
      sent.put(each.getKey(), ((OnnxTensor) each.getValue()).sent());
    }
    Pipe.Reply reply =
        asked(
            Map.of("do", "run", "session", number, "outputs", List.copyOf(requestedOutputs)),
            sent);
    Map<String, OnnxValue> made = new LinkedHashMap<>();
    for (String name : requestedOutputs) {
      made.put(name, OnnxTensor.of(reply.tensor(name)));
    }
    return new Result(made);
  }

  @Override
  public void close() throws OrtException {
    if (closed) {
      throw new IllegalStateException("Trying to close an already closed OrtSession.");
    }
    options.checkClosed();
    closed = true;
    asked(Map.of("do", "close", "session", number), Map.of());
    Pipe.OPEN.decrementAndGet();
  }

  private static Pipe.Reply asked(Map<String, ?> header, Map<String, Pipe.Tensor> tensors)
      throws OrtException {
    try {
      return Pipe.get().ask(header, tensors);
    } catch (IOException error) {
      throw new OrtException(error);
    }
  }

  public static class SessionOptions implements AutoCloseable {
    int threads = 0;
    String provider = "cpu";
    private boolean closed;

    public SessionOptions() {
      Pipe.OPEN.incrementAndGet();
    }

    public void setIntraOpNumThreads(int numThreads) throws OrtException {
      checkClosed();
      threads = numThreads;
    }

    public void setMemoryPatternOptimization(boolean memoryPatternOptimization)
        throws OrtException {
      checkClosed();
    }

    public void addConfigEntry(String configKey, String configValue) throws OrtException {
      checkClosed();
      if (configKey.isEmpty()) {
        throw new OrtException("Config key is empty");
      }
    }

    public void addXnnpack(Map<String, String> providerOptions) throws OrtException {
      checkClosed();
      provider = "xnnpack";
    }

    public void addNnapi(EnumSet<NNAPIFlags> flags) throws OrtException {
      checkClosed();
      provider = "nnapi";
    }

    void checkClosed() {
      if (closed) {
        throw new IllegalStateException("Trying to use a closed SessionOptions");
      }
    }

    @Override
    public void close() {
      checkClosed();
      closed = true;
      Pipe.OPEN.decrementAndGet();
    }
  }

  public static class RunOptions implements AutoCloseable {
    private boolean terminated;
    private boolean closed;

    public RunOptions() throws OrtException {
      Pipe.OPEN.incrementAndGet();
    }

    public void setTerminate(boolean terminate) throws OrtException {
      checkClosed();
      terminated = terminate;
    }

    boolean isTerminated() {
      checkClosed();
      return terminated;
    }

    private void checkClosed() {
      if (closed) {
        throw new IllegalStateException("Trying to use a closed RunOptions");
      }
    }

    @Override
    public void close() {
      checkClosed();
      closed = true;
      Pipe.OPEN.decrementAndGet();
    }
  }

  public static class Result implements AutoCloseable, Iterable<Map.Entry<String, OnnxValue>> {
    private final Map<String, OnnxValue> values;
    private boolean closed;

    Result(Map<String, OnnxValue> values) {
      this.values = values;
    }

    public Optional<OnnxValue> get(String key) {
      if (closed) {
        throw new IllegalStateException("Result is closed");
      }
      return Optional.ofNullable(values.get(key));
    }

    @Override
    public Iterator<Map.Entry<String, OnnxValue>> iterator() {
      return values.entrySet().iterator();
    }

    @Override
    public void close() {
      if (closed) {
        throw new IllegalStateException("Result is closed");
      }
      closed = true;
      values.values().forEach(OnnxValue::close);
    }
  }
}
