package ai.onnxruntime;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.LongBuffer;

/** Float32 and int64 tensors, which are copied as the real ones copy what is no direct buffer. */
public class OnnxTensor extends OnnxTensorLike {
  private final long[] shape;
  private final boolean isFloat;
  private final ByteBuffer data; // little-endian

  private OnnxTensor(long[] shape, boolean isFloat, ByteBuffer data) {
    this.shape = shape.clone();
    this.isFloat = isFloat;
    this.data = data;
  }

  public static OnnxTensor createTensor(OrtEnvironment env, FloatBuffer data, long[] shape)
      throws OrtException {
    ByteBuffer bytes = bytes(4L * data.remaining());
    bytes.asFloatBuffer().put(data.duplicate());
    return checked(shape, true, bytes, data.remaining());
  }

  public static OnnxTensor createTensor(OrtEnvironment env, LongBuffer data, long[] shape)
      throws OrtException {
    ByteBuffer bytes = bytes(8L * data.remaining());
    bytes.asLongBuffer().put(data.duplicate());
    return checked(shape, false, bytes, data.remaining());
  }

  private static OnnxTensor checked(long[] shape, boolean isFloat, ByteBuffer bytes, int count)
      throws OrtException {
    long expected = 1;
    for (long size : shape) {
      expected *= size;
    }
    if (expected != count) {
      throw new OrtException("Shape " + java.util.Arrays.toString(shape) + ", " + count);
    }
    return new OnnxTensor(shape, isFloat, bytes);
  }

  public FloatBuffer getFloatBuffer() {
    checkClosed();
    if (!isFloat) {
      return null;
    }
    FloatBuffer copy = FloatBuffer.allocate(data.capacity() / 4);
    copy.put(data.duplicate().order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer());
    copy.rewind();
    return copy;
  }

  public LongBuffer getLongBuffer() {
    checkClosed();
    if (isFloat) {
      return null;
    }
    LongBuffer copy = LongBuffer.allocate(data.capacity() / 8);
    copy.put(data.duplicate().order(ByteOrder.LITTLE_ENDIAN).asLongBuffer());
    copy.rewind();
    return copy;
  }

  void write(Worker worker) throws IOException {
    checkClosed();
    worker.out.writeBoolean(isFloat);
    worker.writeLongs(shape);
    worker.out.write(data.array());
  }

  static OnnxTensor read(Worker worker) throws IOException {
    boolean isFloat = worker.in.readBoolean();
    long[] shape = worker.readLongs();
    long count = isFloat ? 4 : 8;
    for (long size : shape) {
      count *= size;
    }
    ByteBuffer bytes = bytes(count);
    worker.in.readFully(bytes.array());
    return new OnnxTensor(shape, isFloat, bytes);
  }

  private static ByteBuffer bytes(long count) {
    return ByteBuffer.allocate(Math.toIntExact(count)).order(ByteOrder.LITTLE_ENDIAN);
  }
}
