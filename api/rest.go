package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/bedplate/bedplate/proto"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

const (
	// innerNetwork is the Network of the addresses of the connection between
	// the REST gateway and the gRPC server, inside this process.
	innerNetwork = "bufconn"
	innerBuffer  = 256 << 10

	maxMessageBytes = 4 << 20
	// bodyTimeout is how long a REST request may take to arrive.
	bodyTimeout = 30 * time.Second
)

// dialInner returns the gateway's connection to the gRPC server. It goes
// through the same interceptors as any other client.
func dialInner(inner *bufconn.Listener) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("passthrough:///inner",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return inner.DialContext(ctx) }),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(2*maxMessageBytes)))
	if err != nil {
		return nil, fmt.Errorf("connecting the REST gateway: %w", err)
	}
	return conn, nil
}

// newREST returns the handler for everything that isn't gRPC.
func newREST(ctx context.Context, conn *grpc.ClientConn) (http.Handler, error) {
	gateway := runtime.NewServeMux(runtime.WithMarshalerOption(runtime.MIMEWildcard, &runtime.JSONPb{
		MarshalOptions: protojson.MarshalOptions{UseProtoNames: true},
		// A misspelt field is an error, not a surprise later on.
		UnmarshalOptions: protojson.UnmarshalOptions{DiscardUnknown: false},
	}))
	for _, register := range []func(context.Context, *runtime.ServeMux, *grpc.ClientConn) error{
		pb.RegisterMachineServiceHandler, pb.RegisterNetworkServiceHandler, pb.RegisterImageServiceHandler,
		pb.RegisterTemplateServiceHandler, pb.RegisterWorkflowServiceHandler, pb.RegisterInstanceServiceHandler,
		pb.RegisterTokenServiceHandler, pb.RegisterSecretServiceHandler, pb.RegisterEventServiceHandler, pb.RegisterErasureServiceHandler, pb.RegisterStackServiceHandler,
		pb.RegisterSystemServiceHandler,
	} {
		if err := register(ctx, gateway, conn); err != nil {
			return nil, fmt.Errorf("registering REST routes: %w", err)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, proto.OpenAPI) // the client has gone if it fails
	})
	mux.Handle("/v1/", bounded(gateway))
	mux.HandleFunc("/", notFound)
	return mux, nil
}

// notFound answers what is no part of the API in the form of its errors.
func notFound(w http.ResponseWriter, r *http.Request) {
	body, err := json.Marshal(map[string]any{"code": 5, "message": r.URL.Path + " is not part of the API: it is described at /openapi.json"})
	if err != nil {
		return // a map of strings can be encoded
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusNotFound)
	_, _ = w.Write(body)
}

// bounded limits the size of requests and the time they take to arrive. The
// answer may take as long as it does: it may be a watch.
func bounded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		if r.ContentLength != 0 {
			r.Body = http.MaxBytesReader(w, r.Body, maxMessageBytes)
			body := &timedBody{ReadCloser: r.Body}
			// A moment in the past ends a Read that is waiting.
			body.timer = time.AfterFunc(bodyTimeout, func() {
				_ = http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0))
			})
			defer body.timer.Stop()
			r.Body = body
		}
		next.ServeHTTP(w, r)
	})
}

// timedBody stops its timer once everything has arrived.
type timedBody struct {
	io.ReadCloser
	timer *time.Timer
}

// Read implements io.Reader.
func (b *timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.timer.Stop()
	}
	return n, err
}

// dispatch sends gRPC to the gRPC server and the rest to REST. Both come over
// HTTP/2 on one connection, so that the content type tells them apart.
func dispatch(grpcServer, rest http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			grpcServer.ServeHTTP(w, r)
			return
		}
		rest.ServeHTTP(w, r)
	})
}
