// SPDX-License-Identifier: Apache-2.0

// Command front serves HTTP and asks the search service over gRPC.
package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"log"
	"net/http"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"remora.dev/examples/php-shop/internal/searchrpc"
	"remora.dev/examples/php-shop/internal/shop"
)

func main() {
	program := shop.New("front")
	search := flag.String("search", "search:9090", "host and port of the search service")
	flag.Parse()

	conn, err := grpc.NewClient(*search, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()

	program.Handle("/search", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
		defer cancel()
		ctx = withTrace(ctx, r.Header)
		found, err := searchrpc.Query(ctx, conn, r.URL.Query().Get("q"))
		answer(w, program, []string{found}, err)
	})
	program.Handle("/suggest", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
		defer cancel()
		stream, err := searchrpc.Suggest(withTrace(ctx, r.Header), conn, r.URL.Query().Get("q"))
		var found []string
		for err == nil {
			next, fault := stream.Recv()
			if err = fault; err == nil {
				found = append(found, next.GetValue())
			}
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
		answer(w, program, found, err)
	})
	program.Run()
}

func answer(w http.ResponseWriter, program *shop.Program, found []string, err error) {
	code := http.StatusOK
	if err != nil {
		code = http.StatusBadGateway
	}
	message := ""
	if err != nil {
		message = status.Convert(err).Message()
	}
	shop.WriteJSON(w, code, map[string]any{
		"service": program.Service, "version": program.Version, "instance": program.Instance,
		"found": found, "grpc_status": status.Code(err).String(), "grpc_message": message,
	})
}

// withTrace passes on the headers that tie the calls of one page together, as any traced program does.
func withTrace(ctx context.Context, from http.Header) context.Context {
	for _, name := range []string{"x-request-id", "traceparent", "tracestate", "b3"} {
		if value := from.Get(name); value != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, name, value)
		}
	}
	return ctx
}
