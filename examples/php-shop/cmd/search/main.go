// SPDX-License-Identifier: Apache-2.0

// Command search serves searches over HTTP and, on another port, over gRPC.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"remora.dev/examples/php-shop/internal/searchrpc"
	"remora.dev/examples/php-shop/internal/shop"
)

type searcher struct{ program *shop.Program }

func (s searcher) Query(ctx context.Context, text *wrapperspb.StringValue) (answer *wrapperspb.StringValue, err error) {
	s.serve(ctx, &err, func() error {
		answer = wrapperspb.String(s.program.Instance + " found " + text.GetValue())
		return grpc.SetTrailer(ctx, metadata.Pairs("x-search-instance", s.program.Instance))
	})
	return answer, err
}

func (s searcher) Suggest(text *wrapperspb.StringValue, stream grpc.ServerStreamingServer[wrapperspb.StringValue]) (err error) {
	s.serve(stream.Context(), &err, func() error {
		for n := range 3 {
			if err := stream.Send(wrapperspb.String(fmt.Sprintf("%s-%d", text.GetValue(), n))); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

// serve runs a call as shop.Program.Serve does, and fails it if the admin port says so.
func (s searcher) serve(ctx context.Context, err *error, handle func() error) {
	*err = status.FromContextError(context.Canceled).Err()
	authority := ""
	if incoming, ok := metadata.FromIncomingContext(ctx); ok {
		authority = first(incoming.Get(":authority"))
	}
	s.program.Serve(ctx, authority, func() int {
		if s.program.FailStatus() != 0 {
			*err = status.Error(codes.Unavailable, s.program.Instance+" was told to fail")
			return s.program.FailStatus()
		}
		*err = handle()
		return 200
	})
}

func first(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[0]
}

func main() {
	program := shop.New("search")
	address := flag.String("grpc", ":9090", "address of the gRPC port")
	flag.Parse()

	listener, err := net.Listen("tcp", *address)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	searchrpc.Register(server, searcher{program})
	healthpb.RegisterHealthServer(server, health.NewServer())
	go func() { log.Fatal(server.Serve(listener)) }()
	program.Run()
	server.Stop()
}
