// Knows ONNX Runtime: how sessions are opened, how tensors go in and come out.
package io.pocketvlm

import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtException
import ai.onnxruntime.OrtSession
import ai.onnxruntime.providers.NNAPIFlags
import java.io.File
import java.nio.FloatBuffer
import java.nio.LongBuffer
import java.util.EnumSet

/** What computes the nodes of a graph; the CPU computes what the others do not. */
sealed class Provider(val name: String) {
    /** ONNX Runtime's own kernels, which every build has. */
    object Cpu : Provider("CPU")

    /** XNNPACK, with [options] as ONNX Runtime documents them (`intra_op_num_threads`). */
    class Xnnpack(val options: Map<String, String> = emptyMap()) : Provider("XNNPACK")

    /** Android's Neural Networks API, with ONNX Runtime's [flags]. */
    class Nnapi(val flags: Set<NNAPIFlags> = emptySet()) : Provider("NNAPI")
}

/**
 * How sessions are opened. Nothing in an artifact can change it.
 *
 * @property threads of each session; null leaves ONNX Runtime's default.
 * @property provider what computes. Another than the CPU must pass the artifact's self-test.
 * @property entries session configuration entries of ONNX Runtime, passed through.
 */
class EngineSettings(
    val threads: Int? = null,
    val provider: Provider = Provider.Cpu,
    val entries: Map<String, String> = emptyMap(),
) {
    init {
        if (threads != null && threads !in 1..64) {
            throw RequestException("threads = $threads", expected = "1 to 64, or null")
        }
    }
}

/** The environment and the options that all sessions of an artifact share. */
internal class Engine(settings: EngineSettings) : AutoCloseable {
    private val environment = OrtEnvironment.getEnvironment()

    // Must outlive the sessions that were opened with them.
    private val options = OrtSession.SessionOptions()

    init {
        failing("ONNX Runtime does not take these settings", options) {
            settings.threads?.let { options.setIntraOpNumThreads(it) }
            // A plan of memory for each shape would stay for as long as the session, and prompts
            // and caches have a new one at every step.
            options.setMemoryPatternOptimization(false)
            for ((name, value) in settings.entries) options.addConfigEntry(name, value)
            when (val provider = settings.provider) {
                is Provider.Cpu -> Unit
                is Provider.Xnnpack -> options.addXnnpack(provider.options)
                is Provider.Nnapi -> {
                    val flags = EnumSet.noneOf(NNAPIFlags::class.java)
                    options.addNnapi(flags.apply { addAll(provider.flags) })
                }
            }
        }
    }

    /** Opens a graph whose weights lie in files beside it; [name] is what failures call it. */
    fun open(file: File, name: String): Graph = failing("$name cannot be opened") {
        Graph(environment.createSession(file.path, options), name)
    }

    fun floats(values: FloatArray, vararg shape: Long): OnnxTensor =
        OnnxTensor.createTensor(environment, FloatBuffer.wrap(values), shape)

    fun longs(values: LongArray, vararg shape: Long): OnnxTensor =
        OnnxTensor.createTensor(environment, LongBuffer.wrap(values), shape)

    override fun close() = options.close()
}

/** An opened graph. */
internal class Graph(private val session: OrtSession, private val name: String) : AutoCloseable {
    /** The caller closes inputs and result; [options] may end the run from another thread. */
    fun run(
        inputs: Map<String, OnnxTensor>,
        outputs: Set<String>,
        options: OrtSession.RunOptions? = null,
    ): OrtSession.Result = failing("$name failed") {
        if (options == null) session.run(inputs, outputs) else session.run(inputs, outputs, options)
    }

    override fun close() = session.close()
}

/** An output by its name; raises [EngineException] where the graph gave another kind. */
internal fun OrtSession.Result.tensor(name: String): OnnxTensor =
    get(name).orElse(null) as? OnnxTensor ?: throw EngineException("a graph gave no tensor $name")

internal fun OrtSession.Result.floats(name: String): FloatArray {
    val buffer = tensor(name).floatBuffer ?: throw EngineException("$name is not float32")
    return FloatArray(buffer.remaining()).also { buffer.get(it) }
}

internal fun OrtSession.Result.longs(name: String): LongArray {
    val buffer = tensor(name).longBuffer ?: throw EngineException("$name is not int64")
    return LongArray(buffer.remaining()).also { buffer.get(it) }
}

/** What [work] gives; ONNX Runtime's exception as one of ours, after [owned] is closed. */
internal fun <T> failing(reason: String, owned: AutoCloseable? = null, work: () -> T): T =
    try {
        work()
    } catch (error: OrtException) {
        owned?.close()
        throw EngineException("$reason (${error.message})", cause = error)
    }
