# Read by nginx's auto/make: builds the Rust library with the cargo of NGX_CARGO

cat << END                                                    >> $NGX_MAKEFILE

.PHONY:	ngx_rs_listen_library

$NGX_RS_LIB:	ngx_rs_listen_library

ngx_rs_listen_library:
	\$\${NGX_CARGO:-cargo} rustc --release --locked --lib \\
		--crate-type staticlib \\
		--manifest-path $ngx_addon_dir/../Cargo.toml \\
		--target-dir $NGX_OBJS/ngx_rs_listen

END
