// SPDX-License-Identifier: Apache-2.0

// Package searchrpc is the gRPC service shop.Search. Its messages are protobuf's own StringValue,
// so its description is written by hand and needs no code generator:
//
//	service Search {
//	  rpc Query(google.protobuf.StringValue) returns (google.protobuf.StringValue);
//	  rpc Suggest(google.protobuf.StringValue) returns (stream google.protobuf.StringValue);
//	}
package searchrpc

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	queryMethod   = "/shop.Search/Query"
	suggestMethod = "/shop.Search/Suggest"
)

// Server answers searches.
type Server interface {
	Query(context.Context, *wrapperspb.StringValue) (*wrapperspb.StringValue, error)
	Suggest(*wrapperspb.StringValue, grpc.ServerStreamingServer[wrapperspb.StringValue]) error
}

// Register adds the service to a gRPC server.
func Register(registrar grpc.ServiceRegistrar, server Server) {
	registrar.RegisterService(&description, server)
}

// Query asks once.
func Query(ctx context.Context, conn grpc.ClientConnInterface, text string) (string, error) {
	answer := new(wrapperspb.StringValue)
	err := conn.Invoke(ctx, queryMethod, wrapperspb.String(text), answer)
	return answer.GetValue(), err
}

// Suggest asks for a stream of answers.
func Suggest(ctx context.Context, conn grpc.ClientConnInterface, text string) (grpc.ServerStreamingClient[wrapperspb.StringValue], error) {
	stream, err := conn.NewStream(ctx, &description.Streams[0], suggestMethod)
	if err != nil {
		return nil, err
	}
	answers := &grpc.GenericClientStream[wrapperspb.StringValue, wrapperspb.StringValue]{ClientStream: stream}
	if err := answers.SendMsg(wrapperspb.String(text)); err != nil {
		return nil, err
	}
	return answers, answers.CloseSend()
}

var description = grpc.ServiceDesc{
	ServiceName: "shop.Search",
	HandlerType: (*Server)(nil),
	Methods:     []grpc.MethodDesc{{MethodName: "Query", Handler: handleQuery}},
	Streams:     []grpc.StreamDesc{{StreamName: "Suggest", Handler: handleSuggest, ServerStreams: true}},
}

func handleQuery(server any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
	request := new(wrapperspb.StringValue)
	if err := decode(request); err != nil {
		return nil, err
	}
	handle := func(ctx context.Context, request any) (any, error) {
		return server.(Server).Query(ctx, request.(*wrapperspb.StringValue))
	}
	if intercept == nil {
		return handle(ctx, request)
	}
	return intercept(ctx, request, &grpc.UnaryServerInfo{Server: server, FullMethod: queryMethod}, handle)
}

func handleSuggest(server any, stream grpc.ServerStream) error {
	request := new(wrapperspb.StringValue)
	if err := stream.RecvMsg(request); err != nil {
		return err
	}
	answers := &grpc.GenericServerStream[wrapperspb.StringValue, wrapperspb.StringValue]{ServerStream: stream}
	return server.(Server).Suggest(request, answers)
}
