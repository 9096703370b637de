package rescue

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	// handshakeLimit is for a stranger to say who they are.
	handshakeLimit = 20 * time.Second
	maxConnections = 16
	maxChannels    = 10 // OpenSSH's MaxSessions
	maxAttempts    = 6
)

// commentOf is where the handshake leaves the comment of the key that was let in.
const (
	extensionKey     = "bedplate-key"
	extensionComment = "bedplate-comment"
)

var errKey = errors.New("this key is not let in")

// accept serves connections until the listener is closed.
func (r *running) accept(ctx context.Context, l net.Listener, host ssh.Signer) {
	config := &ssh.ServerConfig{
		MaxAuthTries: maxAttempts, ServerVersion: "SSH-2.0-bedplate",
		// Not ssh-rsa, which is RSA with SHA-1, nor DSA.
		PublicKeyAuthAlgorithms: []string{
			ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521,
			ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSASHA512,
		},
		PublicKeyCallback: func(_ ssh.ConnMetadata, offered ssh.PublicKey) (*ssh.Permissions, error) {
			k, ok := r.keys.find(offered)
			if !ok {
				return nil, errKey
			}
			return &ssh.Permissions{Extensions: map[string]string{extensionKey: ssh.FingerprintSHA256(k.key), extensionComment: k.comment}}, nil
		},
	}
	config.AddHostKey(host)
	var wg sync.WaitGroup
	defer wg.Wait()
	room := make(chan struct{}, maxConnections)
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			r.log("accepting a connection: %v", err)
			select { // out of file descriptors, perhaps: not in a hot loop
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
			continue
		}
		select {
		case room <- struct{}{}:
		default:
			r.log("%s is turned away: %d connections are open", conn.RemoteAddr(), maxConnections)
			conn.Close()
			continue
		}
		wg.Go(func() {
			defer func() { <-room }()
			defer conn.Close()
			stop := context.AfterFunc(ctx, func() { conn.Close() })
			defer stop()
			r.connection(ctx, conn, config)
		})
	}
}

// connection serves one connection to its end.
func (r *running) connection(ctx context.Context, conn net.Conn, config *ssh.ServerConfig) {
	_ = conn.SetDeadline(time.Now().Add(handshakeLimit))
	c, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		r.log("%s did not get in: %s", conn.RemoteAddr(), printable(err.Error()))
		return
	}
	_ = conn.SetDeadline(time.Time{})
	if t, ok := conn.(*net.TCPConn); ok {
		_ = t.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3})
	}
	r.log("%s from %s is in, by key %s %s", printable(c.User()), conn.RemoteAddr(), c.Permissions.Extensions[extensionKey], c.Permissions.Extensions[extensionComment])
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { ssh.DiscardRequests(requests) }) // keepalives are answered; forwarding is not to be had
	r.channels(ctx, &wg, c, channels)
	cancel()
	c.Close()
	wg.Wait()
	r.log("%s from %s is gone", printable(c.User()), conn.RemoteAddr())
}

// channels opens sessions until the connection ends.
func (r *running) channels(ctx context.Context, wg *sync.WaitGroup, c *ssh.ServerConn, channels <-chan ssh.NewChannel) {
	room := make(chan struct{}, maxChannels)
	for n := range channels {
		if n.ChannelType() != "session" {
			_ = n.Reject(ssh.UnknownChannelType, "only sessions; no forwarding")
			continue
		}
		select {
		case room <- struct{}{}:
		default:
			_ = n.Reject(ssh.ResourceShortage, "too many sessions")
			continue
		}
		channel, requests, err := n.Accept()
		if err != nil {
			<-room
			continue
		}
		wg.Go(func() {
			defer func() { <-room }()
			defer channel.Close()
			s := &session{r: r, number: r.next(), peer: c.RemoteAddr().String(), local: c.LocalAddr().String(), channel: channel}
			s.serve(ctx, requests)
		})
	}
}
