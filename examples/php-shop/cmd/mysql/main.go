// SPDX-License-Identifier: Apache-2.0

// Command mysql is a server that speaks first, as MySQL does: it greets every connection with the
// start of MySQL's handshake and then returns what it is sent.
package main

import (
	"flag"
	"io"
	"log"
	"net"
)

// greeting is a packet as MySQL 8 begins a connection: length, sequence, protocol 10, version.
var greeting = append([]byte{0x0c, 0, 0, 0, 0x0a}, "8.0.36-shop"...)

func main() {
	listen := flag.String("listen", ":3306", "address to serve")
	flag.Parse()
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	log.Printf("greets on %s", *listen)
	for {
		conn, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			defer conn.Close()
			if _, err := conn.Write(greeting); err == nil {
				_, _ = io.Copy(conn, conn)
			}
		}()
	}
}
