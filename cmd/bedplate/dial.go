package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"github.com/bedplate/bedplate/trust"
)

const (
	// connectTimeout bounds one attempt to connect.
	connectTimeout = 10 * time.Second
	// maxMessageBytes is the largest answer that is read; pages of machines
	// with their inventories are large.
	maxMessageBytes = 64 << 20
)

// dial opens the connection that flags, environment and file ask for. It
// doesn't wait for it: the first call does.
func (a *app) dial(context.Context) (connection, error) {
	c, err := a.settings()
	if err != nil {
		return nil, err
	}
	config, err := c.tls(a.now)
	if err != nil {
		return nil, err
	}
	retry := backoff.DefaultConfig
	retry.MaxDelay = 5 * time.Second
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(credentials.NewTLS(config)),
		grpc.WithUserAgent("bedplate/" + programVersion()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageBytes)),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: retry, MinConnectTimeout: connectTimeout}),
		// As often as a server allows by default.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 6 * time.Minute, Timeout: 20 * time.Second}),
	}
	if c.Token != "" {
		opts = append(opts, grpc.WithPerRPCCredentials(bearer(c.Token)))
	}
	conn, err := grpc.NewClient("dns:///"+c.Server, opts...)
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", c.Server, err)
	}
	return named{conn, c.Server}, nil
}

// named is a connection that knows where it goes, for messages.
type named struct {
	*grpc.ClientConn
	server string
}

// tls returns how the server is recognised: by the digest of its CA, by its CA,
// or by what the system trusts.
func (c clientConfig) tls(now func() time.Time) (*tls.Config, error) {
	host, _, err := net.SplitHostPort(c.Server)
	if err != nil {
		return nil, err
	}
	if c.CADigest != "" && c.CA == "" {
		return trust.PinnedClientTLS(c.CADigest, host, now)
	}
	roots, err := c.roots()
	if err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: host, Time: now}, nil
}

// bearer is an API token as gRPC sends it: over TLS only.
type bearer string

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (bearer) RequireTransportSecurity() bool { return true }
