//! What stands in front of the generated code: arguments are a tuple.

fn call(connection: &adjoin::Connection, method: &'static adjoin::Method) {
    let _ = connection.call::<_, u64, adjoin::Never>(method, 5u64);
}

fn main() {}
