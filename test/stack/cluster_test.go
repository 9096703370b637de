// Package stack puts stacks on a real Kubernetes control plane: etcd,
// kube-apiserver, kube-controller-manager and kube-scheduler, with nodes that
// kwok simulates. The programs are built by test/kubernetes/build.sh; without
// BEDPLATE_E2E=1 nothing of it runs.
package stack

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"crypto/tls"
)

// builds is where test/kubernetes/build.sh puts what it builds.
const builds = "../../build/kubernetes"

// cluster is a control plane.
type cluster struct {
	t          *testing.T
	dir        string
	kubeconfig string
	server     string
}

// needCluster starts a control plane, with that many simulated nodes.
func needCluster(t *testing.T, nodes int) *cluster {
	t.Helper()
	if os.Getenv("BEDPLATE_E2E") == "" {
		t.Skip("needs a Kubernetes control plane: set BEDPLATE_E2E=1")
	}
	if out, err := exec.Command("../kubernetes/build.sh", builds).CombinedOutput(); err != nil {
		t.Fatalf("building Kubernetes: %v\n%s", err, out)
	}
	c := &cluster{t: t, dir: t.TempDir()}
	c.write("sa.key", ecKey(t))
	c.write("tokens.csv", "secret,admin,admin,system:masters\n")
	client, peer, api := freePort(t), freePort(t), freePort(t)
	c.server = fmt.Sprintf("https://127.0.0.1:%d", api)
	c.kubeconfig = "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{name: c, context: {cluster: c, user: u}}]\n" +
		"clusters: [{name: c, cluster: {server: '" + c.server + "', insecure-skip-tls-verify: true}}]\nusers: [{name: u, user: {token: secret}}]\n"
	c.write("kubeconfig", c.kubeconfig)
	etcd := fmt.Sprintf("http://127.0.0.1:%d", client)
	peers := fmt.Sprintf("http://127.0.0.1:%d", peer)
	c.start("controlplane", "etcd", "--data-dir="+c.path("etcd"), "--listen-client-urls="+etcd, "--advertise-client-urls="+etcd,
		"--listen-peer-urls="+peers, "--initial-advertise-peer-urls="+peers, "--initial-cluster=default="+peers, "--unsafe-no-fsync", "--log-level=error")
	c.start("controlplane", "kube-apiserver", "--etcd-servers="+etcd, fmt.Sprintf("--secure-port=%d", api), "--bind-address=127.0.0.1", "--cert-dir="+c.path("certs"),
		"--token-auth-file="+c.path("tokens.csv"), "--authorization-mode=RBAC", "--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+c.path("sa.key"), "--service-account-signing-key-file="+c.path("sa.key"), "--service-cluster-ip-range=10.96.0.0/16",
		"--allow-privileged", "--v=0")
	c.waitReady()
	c.start("controlplane", "kube-controller-manager", "--kubeconfig="+c.path("kubeconfig"), "--service-account-private-key-file="+c.path("sa.key"),
		"--leader-elect=false", "--kube-api-qps=500", "--kube-api-burst=1000", fmt.Sprintf("--secure-port=%d", freePort(t)), "--cert-dir="+c.path("certs"), "--v=0")
	c.start("controlplane", "kube-scheduler", "--kubeconfig="+c.path("kubeconfig"), "--leader-elect=false", "--kube-api-qps=500", "--kube-api-burst=1000",
		fmt.Sprintf("--secure-port=%d", freePort(t)), "--cert-dir="+c.path("certs"), "--v=0")
	if nodes > 0 {
		c.start("kwok", "--kubeconfig="+c.path("kubeconfig"), "--config="+filepath.Join(builds, "stages.yaml"),
			"--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake", "--node-lease-duration-seconds=200", "--cidr=10.200.0.0/15")
	}
	return c
}

func (c *cluster) path(name string) string { return filepath.Join(c.dir, name) }

func (c *cluster) write(name, text string) {
	if err := os.WriteFile(c.path(name), []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// start runs a program until the test ends.
func (c *cluster) start(program string, args ...string) {
	c.t.Helper()
	log, err := os.Create(c.path(program + "-" + strings.Trim(args[0], "-/=.:abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")))
	if err != nil {
		c.t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(builds, program), args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = log.Close()
		if c.t.Failed() {
			text, _ := os.ReadFile(log.Name())
			c.t.Logf("%s %s said last: %s", program, args[0], text[max(0, len(text)-2000):])
		}
	})
}

// waitReady waits until the API server is ready.
func (c *cluster) waitReady() {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	eventually(c.t, 3*time.Minute, "the API server is ready", func() (bool, string) {
		req, err := http.NewRequestWithContext(c.t.Context(), http.MethodGet, c.server+"/readyz", nil)
		if err != nil {
			return false, err.Error()
		}
		req.Header.Set("Authorization", "Bearer secret")
		resp, err := client.Do(req)
		if err != nil {
			return false, err.Error()
		}
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusOK, resp.Status
	})
}

// eventually waits until f is true.
func eventually(t *testing.T, limit time.Duration, what string, f func() (bool, string)) {
	t.Helper()
	end := time.Now().Add(limit)
	for {
		ok, last := f()
		if ok {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("waiting until %s: %s", what, last)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func ecKey(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
}
