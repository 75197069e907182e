# for auto/make of nginx: the Rust library; NGX_CARGO is the cargo to use

cat << END                                                    >> $NGX_MAKEFILE

.PHONY:	ngx_rs_listen_library

$NGX_RS_LIB:	ngx_rs_listen_library

ngx_rs_listen_library:
	\$\${NGX_CARGO:-cargo} rustc --release --locked --lib \\
		--crate-type staticlib \\
		--manifest-path $ngx_addon_dir/../Cargo.toml \\
		--target-dir $NGX_OBJS/ngx_rs_listen

END
