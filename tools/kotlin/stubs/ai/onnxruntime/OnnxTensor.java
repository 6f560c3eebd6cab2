package ai.onnxruntime;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.LongBuffer;

/** Float32 and int64 tensors, which are copied as the real ones copy what is not a direct buffer. */
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

  Pipe.Tensor sent() {
    checkClosed();
    return new Pipe.Tensor(isFloat ? "float32" : "int64", shape, data.array());
  }

  static OnnxTensor of(Pipe.Tensor tensor) throws OrtException {
    if (tensor.type().equals("uint8")) {
      throw new OrtException("The stubs have no tensors of uint8");
    }
    ByteBuffer data = ByteBuffer.wrap(tensor.data()).order(ByteOrder.LITTLE_ENDIAN);
    return new OnnxTensor(tensor.shape(), tensor.type().equals("float32"), data);
  }

  private static ByteBuffer bytes(long count) {
    return ByteBuffer.allocate(Math.toIntExact(count)).order(ByteOrder.LITTLE_ENDIAN);
  }
}
