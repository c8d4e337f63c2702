//! Makes the client and the server of tonic's service, without a `.proto` file.

use tonic_build::manual::{Builder, Method, Service};

fn main() {
    let payload = "crate::peers::tonic::Payload";
    let method = |name: &str, output: &str| {
        let method = Method::builder().name(name).route_name(name).codec_path("crate::peers::tonic::Codec");
        method.input_type(payload).output_type(output)
    };
    let service = Service::builder()
        .name("Work")
        .package("peers")
        .method(method("echo", payload).build())
        .method(method("ingest", "crate::peers::tonic::Sums").client_streaming().build())
        .method(method("end", payload).build())
        .build();
    Builder::new().compile(&[service]);
    println!("cargo::rerun-if-changed=build.rs");
}
