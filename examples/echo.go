// An echo server: see echo.c. cgo finds the library with pkg-config.
package main

// #cgo pkg-config: ngx_rs_listen
// #include <stdlib.h>
// #include <ngx_rs_listen.h>
import "C"

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"unsafe"
)

// openAll opens the sockets that the words of a listen directive ask for.
func openAll(text []string) ([]net.Listener, error) {
	words, count := make([]C.ngx_rs_str_t, len(text)+1), C.size_t(len(text))
	for i, word := range text {
		data := C.CString(word)
		defer C.free(unsafe.Pointer(data))
		words[i] = C.ngx_rs_str_t{len: C.size_t(len(word)), data: (*C.uint8_t)(unsafe.Pointer(data))}
	}
	listen, array := (*C.ngx_rs_listen_t)(nil), (*C.ngx_rs_listening_t)(nil)
	failure := C.ngx_rs_error_t{size: C.sizeof_ngx_rs_error_t}
	defer func() { C.ngx_rs_listen_free(listen) }()
	if C.ngx_rs_listen_parse(&words[0], count, nil, &listen, &failure) != C.NGX_RS_OK ||
		C.ngx_rs_listen_sockets(listen, C.sizeof_ngx_rs_listening_t, &array, &count, &failure) != C.NGX_RS_OK ||
		C.ngx_rs_open_listening(array, count, nil, &failure) != C.NGX_RS_OK {
		return nil, errors.New(C.GoString(&failure.message[0]))
	}
	var listeners []net.Listener
	for _, socket := range unsafe.Slice(array, count) {
		file := os.NewFile(uintptr(socket.fd), "listener")
		listener, err := net.FileListener(file) // has a descriptor of its own
		file.Close()
		if err != nil {
			return nil, err
		}
		listeners = append(listeners, listener)
	}
	return listeners, nil
}

func addrPort(storage *C.struct_sockaddr_storage) netip.AddrPort {
	data := (*[28]byte)(unsafe.Pointer(storage))
	port := uint16(data[2])<<8 | uint16(data[3])
	if storage.ss_family == syscall.AF_INET6 {
		return netip.AddrPortFrom(netip.AddrFrom16(*(*[16]byte)(data[8:24])), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom4(*(*[4]byte)(data[4:8])), port)
}

// figure is a value divided by a unit, with so many decimals.
func figure(value C.int64_t, unit float64, decimals int) string {
	if value == C.NGX_RS_UNKNOWN {
		return "-"
	}
	return fmt.Sprintf("%.*f", decimals, float64(value)/unit)
}

func describe(fd uintptr) {
	paths, count := [16]C.ngx_rs_subflow_t{{size: C.sizeof_ngx_rs_subflow_t}}, C.size_t(0)
	info := C.ngx_rs_connection_info_t{size: C.sizeof_ngx_rs_connection_info_t}
	C.ngx_rs_connection_subflows(C.int32_t(fd), &paths[0], C.size_t(len(paths)), &count, &info, nil)
	line := []string{"?", "other", "TCP", "MPTCP", "fallback"}[info.kind] // C.NGX_RS_CONNECTION_*
	for i := 0; i < int(count) && i < len(paths); i++ {
		path := &paths[i]
		line += fmt.Sprintf("\n  %v -> %v sent=%s received=%s retransmits=%s rtt_ms=%s",
			addrPort(&path.remote), addrPort(&path.local), figure(path.bytes_sent, 1, 0),
			figure(path.bytes_received, 1, 0), figure(path.retransmits, 1, 0), figure(path.rtt_us, 1000, 3))
	}
	fmt.Println(line)
}

func serve(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			defer conn.Close()
			io.Copy(conn, conn)
			raw, _ := conn.(syscall.Conn).SyscallConn() // fails for no connection
			raw.Control(describe)
		}()
	}
}

func main() {
	listeners, err := openAll(os.Args[1:])
	if err != nil {
		log.Fatal(err)
	}
	for _, listener := range listeners {
		go serve(listener)
	}
	fmt.Println("listening on", len(listeners), "sockets")
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	<-stop
}
