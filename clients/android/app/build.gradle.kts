plugins {
    alias(libs.plugins.android.application)
    alias(libs.plugins.kotlin.android)
}

android {
    namespace = "io.pocketvlm.app"
    compileSdk = 36
    defaultConfig {
        applicationId = "io.pocketvlm.app"
        minSdk = 26
        targetSdk = 36
        versionCode = 1
        versionName = "1.0"
        ndk {
            abiFilters += listOf("arm64-v8a", "x86_64")
        }
    }
    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }
    androidResources {
        // Weights do not get smaller by packing.
        noCompress += listOf("onnx", "onnx_data")
    }
}

kotlin {
    jvmToolchain(17)
}

dependencies {
    implementation(project(":pocketvlm"))
}
