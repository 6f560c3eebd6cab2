package ai.onnxruntime;

import ai.onnxruntime.providers.NNAPIFlags;
import java.io.IOException;
import java.util.EnumSet;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Optional;
import java.util.Set;

/** Runs in the child process. What is given to NNAPI comes back wrong: a planted wrong device. */
public class OrtSession implements AutoCloseable {
  private final long number;
  private final SessionOptions options;
  private boolean closed;

  OrtSession(String modelPath, SessionOptions options) throws OrtException {
    options.checkClosed();
    this.options = options;
    try {
      Worker worker = Worker.get();
      worker.writeText("open");
      worker.writeText(modelPath);
      worker.out.writeInt(options.threads);
      worker.writeText(options.provider);
      answered(worker.sent());
      number = worker.in.readLong();
    } catch (IOException error) {
      throw new OrtException(error);
    }
    Worker.OPEN.incrementAndGet();
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
    try {
      Worker worker = Worker.get();
      worker.writeText("run");
      worker.out.writeLong(number);
      worker.out.writeInt(inputs.size());
      for (Map.Entry<String, ? extends OnnxTensorLike> each : inputs.entrySet()) {
        worker.writeText(each.getKey());
        ((OnnxTensor) each.getValue()).write(worker);
      }
      worker.out.writeInt(requestedOutputs.size());
      for (String name : requestedOutputs) {
        worker.writeText(name);
      }
      answered(worker.sent());
      Map<String, OnnxValue> made = new LinkedHashMap<>();
      for (String name : requestedOutputs) {
        made.put(name, OnnxTensor.read(worker));
      }
      return new Result(made);
    } catch (IOException error) {
      throw new OrtException(error);
    }
  }

  @Override
  public void close() throws OrtException {
    if (closed) {
      throw new IllegalStateException("Trying to close an already closed OrtSession.");
    }
    options.checkClosed();
    closed = true;
    Worker.OPEN.decrementAndGet();
  }

  private static void answered(String failure) throws OrtException {
    if (failure != null) {
      throw new OrtException(failure);
    }
  }

  public static class SessionOptions implements AutoCloseable {
    int threads = 0;
    String provider = "CPU";
    private boolean closed;

    public SessionOptions() {
      Worker.OPEN.incrementAndGet();
    }

    public void setIntraOpNumThreads(int numThreads) throws OrtException {
      checkClosed();
      threads = numThreads;
    }

    public void addConfigEntry(String configKey, String configValue) throws OrtException {
      checkClosed();
      if (configKey.isEmpty()) {
        throw new OrtException("Config key is empty");
      }
    }

    public void addXnnpack(Map<String, String> providerOptions) throws OrtException {
      checkClosed();
      provider = "XNNPACK";
    }

    public void addNnapi(EnumSet<NNAPIFlags> flags) throws OrtException {
      checkClosed();
      provider = "NNAPI";
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
      Worker.OPEN.decrementAndGet();
    }
  }

  public static class RunOptions implements AutoCloseable {
    private boolean terminated;
    private boolean closed;

    public RunOptions() throws OrtException {
      Worker.OPEN.incrementAndGet();
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
      Worker.OPEN.decrementAndGet();
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
