plugins {
    alias(libs.plugins.android.library)
    alias(libs.plugins.kotlin.android)
}

android {
    namespace = "io.pocketvlm.android"
    compileSdk = 36
    defaultConfig {
        minSdk = 26 // DJL's
    }
    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }
}

kotlin {
    jvmToolchain(17)
}

dependencies {
    api(project(":core"))
    api(libs.onnxruntime.android)
    implementation(libs.djl.tokenizers)
    runtimeOnly(libs.djl.tokenizers.android)
}
