// Plain JVM code. The classes of ONNX Runtime and DJL are the same in their Android packages,
// which :pocketvlm brings.
plugins {
    alias(libs.plugins.kotlin.jvm)
}

kotlin {
    jvmToolchain(17)
    compilerOptions {
        allWarningsAsErrors = true
    }
}

dependencies {
    compileOnly(libs.onnxruntime)
    compileOnly(libs.djl.tokenizers)
}
