// A gRPC server and a gRPC client that are not ours: grpc-go with the test service and the test cases of its own project.
//
//	weft-grpc-interop server PORT
//	weft-grpc-interop client HOST:PORT CASE…
//
// The cases are those of https://github.com/grpc/grpc/blob/master/doc/interop-test-descriptions.md. All of a client's run
// one after the other on one connection; the first that fails ends the program, with its reason on standard error.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop"
	"google.golang.org/grpc/interop/grpc_testing"
)

// What one case may take: the longest waits for nothing but the network.
const within = 10 * time.Second

// One case. Those of grpc-go end the program where something is not as it should be.
type testCase func(ctx context.Context, connection *grpc.ClientConn)

// A case that needs no more than the test service.
func service(run func(context.Context, grpc_testing.TestServiceClient, ...grpc.CallOption)) testCase {
	return func(ctx context.Context, connection *grpc.ClientConn) {
		run(ctx, grpc_testing.NewTestServiceClient(connection))
	}
}

var cases = map[string]testCase{
	"empty_unary":                 service(interop.DoEmptyUnaryCall),
	"large_unary":                 service(interop.DoLargeUnaryCall),
	"client_streaming":            service(interop.DoClientStreaming),
	"server_streaming":            service(interop.DoServerStreaming),
	"ping_pong":                   service(interop.DoPingPong),
	"empty_stream":                service(interop.DoEmptyStream),
	"timeout_on_sleeping_server":  service(interop.DoTimeoutOnSleepingServer),
	"cancel_after_begin":          service(interop.DoCancelAfterBegin),
	"cancel_after_first_response": service(interop.DoCancelAfterFirstResponse),
	"status_code_and_message":     service(interop.DoStatusCodeAndMessage),
	"special_status_message":      service(interop.DoSpecialStatusMessage),
	"custom_metadata":             service(interop.DoCustomMetadata),
	"unimplemented_method":        interop.DoUnimplementedMethod,
	"unimplemented_service": func(ctx context.Context, connection *grpc.ClientConn) {
		interop.DoUnimplementedService(ctx, grpc_testing.NewUnimplementedServiceClient(connection))
	},
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "server":
		return serve(args[1])
	case len(args) > 2 && args[0] == "client":
		return call(args[1], args[2:])
	default:
		return fmt.Errorf("usage: server PORT, or client HOST:PORT CASE…")
	}
}

// Serves until it is killed, on all addresses of both families.
func serve(port string) error {
	listener, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	grpc_testing.RegisterTestServiceServer(server, interop.NewTestServer())
	fmt.Println("listening")
	return server.Serve(listener)
}

func call(address string, names []string) error {
	connection, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	for _, name := range names {
		run, known := cases[name]
		if !known {
			return fmt.Errorf("there is no case %s", name)
		}
		fmt.Printf("%s: begun\n", name)
		ctx, cancel := context.WithTimeout(context.Background(), within)
		run(ctx, connection)
		cancel()
		fmt.Printf("%s: held\n", name)
	}
	return nil
}
