// Applications for pods of tests, as people write them for Kubernetes: on SIGTERM a server stops listening at once and finishes
// what is in flight, without a preStop hook; a client finishes what it has asked for and asks for nothing more.
//
//	app serve http|grpc PORT
//	app load http1|http2|grpc HOST:PORT REQUESTS-PER-SECOND
//
// A client goes on until SIGTERM, then prints one line: asked N, failed M, and why the first of them did.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// What one request may take.
const within = 10 * time.Second

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	switch {
	case len(args) == 3 && args[0] == "serve" && args[1] == "http":
		return serveHTTP(ctx, args[2])
	case len(args) == 3 && args[0] == "serve" && args[1] == "grpc":
		return serveGRPC(ctx, args[2])
	case len(args) == 4 && args[0] == "load":
		rate, err := strconv.Atoi(args[3])
		if err != nil || rate < 1 {
			return fmt.Errorf("%q is no rate", args[3])
		}
		ask, err := client(args[1], args[2])
		if err != nil {
			return err
		}
		load(ctx, ask, rate)
		return nil
	default:
		return errors.New("usage: serve http|grpc PORT, or load http1|http2|grpc HOST:PORT REQUESTS-PER-SECOND")
	}
}

// HTTP/1.1 and HTTP/2 by prior knowledge on one port.
func serveHTTP(ctx context.Context, port string) error {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{
		Addr:      ":" + port,
		Protocols: protocols,
		Handler:   http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") }),
	}
	done := make(chan error, 1)
	context.AfterFunc(ctx, func() { done <- server.Shutdown(context.Background()) })
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-done
}

func serveGRPC(ctx context.Context, port string) error {
	listener, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	context.AfterFunc(ctx, server.GracefulStop)
	return server.Serve(listener)
}

// Returns what asks once.
func client(protocol, address string) (func(context.Context) error, error) {
	protocols := new(http.Protocols)
	switch protocol {
	case "http1":
		protocols.SetHTTP1(true)
	case "http2":
		protocols.SetUnencryptedHTTP2(true)
	case "grpc":
		connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry())
		if err != nil {
			return nil, err
		}
		health := grpc_health_v1.NewHealthClient(connection)
		return func(ctx context.Context) error {
			_, err := health.Check(ctx, &grpc_health_v1.HealthCheckRequest{})
			return err
		}, nil
	default:
		return nil, fmt.Errorf("%q is no protocol", protocol)
	}
	over := &http.Client{Transport: &http.Transport{Protocols: protocols, MaxIdleConnsPerHost: 16}}
	return func(ctx context.Context) error { return get(ctx, over, "http://"+address+"/") }, nil
}

func get(ctx context.Context, client *http.Client, url string) error {
	// PUT is idempotent, and Go asks again by itself for GET and its like alone, which would hide a failure. What is not idempotent, on a
	// connection that the application closes at that very moment, nobody may ask again (RFC 9112 §9.3.1).
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, url, http.NoBody)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	return nil
}

// Asks at a steady rate, whether or not answers come, until it is told to stop; then waits for what is in flight.
func load(ctx context.Context, ask func(context.Context) error, rate int) {
	var asking sync.WaitGroup
	var lock sync.Mutex
	asked, failed, first := 0, 0, error(nil)
	ticks := time.NewTicker(time.Second / time.Duration(rate))
	defer ticks.Stop()
	for {
		select {
		case <-ctx.Done():
			asking.Wait()
			fmt.Printf("asked %d, failed %d, first: %v\n", asked, failed, first)
			return
		case <-ticks.C:
			asked++
			number := asked
			asking.Go(func() {
				limited, cancel := context.WithTimeout(context.Background(), within)
				defer cancel()
				if err := ask(limited); err != nil {
					lock.Lock()
					defer lock.Unlock()
					failed++
					if first == nil {
						first = fmt.Errorf("number %d: %w", number, err)
					}
				}
			})
		}
	}
}
