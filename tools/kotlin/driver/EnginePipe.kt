// Knows the messages of tools/engine_pipe: a header in JSON behind its length, and raw tensors.
package io.pocketvlm.driver

import ai.onnxruntime.Pipe
import io.pocketvlm.Json
import java.io.BufferedInputStream
import java.io.BufferedOutputStream
import java.io.DataInputStream
import java.io.DataOutputStream
import java.io.IOException

private const val BUFFER = 1 shl 16
private val SIZES = mapOf("float32" to 4L, "int64" to 8L, "uint8" to 1L)

/** A child process that [command] starts; one request at a time. */
class EnginePipe(command: List<String>) : Pipe() {
    private val child =
        ProcessBuilder(command).redirectError(ProcessBuilder.Redirect.INHERIT).start()
    private val input = DataInputStream(BufferedInputStream(child.inputStream, BUFFER))
    private val output = DataOutputStream(BufferedOutputStream(child.outputStream, BUFFER))

    @Synchronized
    override fun ask(header: Map<String, *>, tensors: Map<String, Tensor>): Reply {
        send(header, tensors)
        val reply = receive()
        reply.header.find("error")?.let { throw IOException(it.text()) }
        return reply
    }

    private fun send(header: Map<String, *>, tensors: Map<String, Tensor>) {
        val listed = tensors.map { (name, tensor) ->
            mapOf("name" to name, "type" to tensor.type, "shape" to tensor.shape)
        }
        val json = written(header + ("tensors" to listed)).toByteArray()
        output.writeInt(Integer.reverseBytes(json.size))
        output.write(json)
        tensors.values.forEach { output.write(it.data) }
        output.flush()
    }

    private fun receive(): Answered {
        val header = Json.parse(String(read(Integer.reverseBytes(input.readInt()))), "reply")
        val tensors = header["tensors"].items().associate { stated ->
            val type = stated["type"].text()
            val shape = stated["shape"].longs()
            val count = shape.fold(SIZES.getValue(type), Long::times)
            stated["name"].text() to Tensor(type, shape, read(Math.toIntExact(count)))
        }
        return Answered(header, tensors)
    }

    private fun read(count: Int) = ByteArray(count).also { input.readFully(it) }

    private class Answered(val header: Json, private val tensors: Map<String, Tensor>) : Reply {
        override fun number(name: String) = header[name].long()

        override fun numbers(name: String) = header[name].longs()

        override fun text(name: String) = header[name].text()

        override fun tensor(name: String) = tensors.getValue(name)
    }
}
