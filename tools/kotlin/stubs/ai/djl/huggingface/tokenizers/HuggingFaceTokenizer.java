package ai.djl.huggingface.tokenizers;

import ai.onnxruntime.Pipe;
import java.io.IOException;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Map;

/** Asks Python's tokenizers behind the pipe; like DJL's it truncates unless told not to. */
public final class HuggingFaceTokenizer implements AutoCloseable {
  private static final int MODEL_MAX_LENGTH = 512;

  private final String path;
  private final boolean truncates;
  private boolean closed;

  private HuggingFaceTokenizer(String path, boolean truncates) throws IOException {
    this.path = path;
    this.truncates = truncates;
    // Read now, so that a damaged file fails here as DJL's does.
    Pipe.get().ask(Map.of("do", "tokenizer", "tokenizer", path), Map.of());
    Pipe.OPEN.incrementAndGet();
  }

  public static HuggingFaceTokenizer newInstance(Path modelPath, Map<String, String> options)
      throws IOException {
    boolean truncates = !"false".equals(options.get("truncation"));
    return new HuggingFaceTokenizer(modelPath.toString(), truncates);
  }

  public Encoding encode(String text, boolean addSpecialTokens, boolean withOverflowingTokens) {
    long[] ids = asked("encode", "text", text, addSpecialTokens).numbers("ids");
    boolean cut = truncates && ids.length > MODEL_MAX_LENGTH;
    return new Encoding(cut ? Arrays.copyOf(ids, MODEL_MAX_LENGTH) : ids);
  }

  public String decode(long[] ids, boolean skipSpecialTokens) {
    return asked("decode", "ids", ids, !skipSpecialTokens).text("text");
  }

  private Pipe.Reply asked(String request, String name, Object value, boolean special) {
    if (closed) {
      throw new IllegalStateException("Native resource has been released already.");
    }
    try {
      return Pipe.get()
          .ask(Map.of("do", request, "tokenizer", path, name, value, "special", special), Map.of());
    } catch (IOException error) {
      throw new IllegalStateException(error);
    }
  }

  @Override
  public void close() {
    if (!closed) {
      closed = true;
      Pipe.OPEN.decrementAndGet();
    }
  }
}
