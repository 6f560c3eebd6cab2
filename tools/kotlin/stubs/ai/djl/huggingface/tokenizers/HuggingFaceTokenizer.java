package ai.djl.huggingface.tokenizers;

import ai.onnxruntime.Worker;
import java.io.IOException;
import java.nio.file.Path;
import java.util.Map;

/** Asks Python's tokenizers in the child process; like DJL's it truncates unless told not to. */
public final class HuggingFaceTokenizer implements AutoCloseable {
  private static final int MODEL_MAX_LENGTH = 512;

  private final boolean truncates;
  private boolean closed;

  private HuggingFaceTokenizer(boolean truncates) {
    this.truncates = truncates;
    Worker.OPEN.incrementAndGet();
  }

  public static HuggingFaceTokenizer newInstance(Path modelPath, Map<String, String> options)
      throws IOException {
    Worker worker = Worker.get();
    worker.writeText("tokenizer");
    worker.writeText(modelPath.toString());
    String failure = worker.sent();
    if (failure != null) {
      throw new IOException(failure);
    }
    return new HuggingFaceTokenizer(!"false".equals(options.get("truncation")));
  }

  public Encoding encode(String text, boolean addSpecialTokens, boolean withOverflowingTokens) {
    try {
      Worker worker = ask("encode");
      worker.writeText(text);
      worker.out.writeBoolean(addSpecialTokens);
      worker.sent();
      long[] ids = worker.readLongs();
      boolean cut = truncates && ids.length > MODEL_MAX_LENGTH;
      return new Encoding(cut ? java.util.Arrays.copyOf(ids, MODEL_MAX_LENGTH) : ids);
    } catch (IOException error) {
      throw new IllegalStateException(error);
    }
  }

  public String decode(long[] ids, boolean skipSpecialTokens) {
    try {
      Worker worker = ask("decode");
      worker.writeLongs(ids);
      worker.out.writeBoolean(skipSpecialTokens);
      worker.sent();
      return worker.readText();
    } catch (IOException error) {
      throw new IllegalStateException(error);
    }
  }

  private Worker ask(String request) throws IOException {
    if (closed) {
      throw new IllegalStateException("Native resource has been released already.");
    }
    Worker worker = Worker.get();
    worker.writeText(request);
    return worker;
  }

  @Override
  public void close() {
    if (!closed) {
      closed = true;
      Worker.OPEN.decrementAndGet();
    }
  }
}
