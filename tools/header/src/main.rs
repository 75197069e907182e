//! Writes include/ngx_rs_listen.h.

fn main() -> std::io::Result<()> {
    std::fs::write(header::path(), header::text())
}
