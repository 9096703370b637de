package main

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
)

// clientConfig is the client's configuration file.
type clientConfig struct {
	// Server is host or host:port of a server.
	Server string `yaml:"server,omitempty"`
	// Token is an API token.
	Token string `yaml:"token,omitempty"`
	// CA is the server's certificate authority in PEM.
	CA string `yaml:"ca,omitempty"`
	// CADigest is sha256: and the digest of its certificate, in place of CA.
	CADigest string `yaml:"ca_digest,omitempty"`
}

// maxConfigBytes bounds the file.
const maxConfigBytes = 1 << 20

// defaultPort is where a server's API listens.
const defaultPort = "8443"

// configPath returns where the client's configuration is: --config,
// $BEDPLATE_CONFIG, or ~/.config/bedplate/config.yaml (XDG_CONFIG_HOME in
// place of ~/.config if that is set).
func (a *app) configPath() (string, error) {
	for _, p := range []string{a.flags.config, a.getenv("BEDPLATE_CONFIG")} {
		if p != "" {
			return p, nil
		}
	}
	dir := a.getenv("XDG_CONFIG_HOME")
	if dir == "" {
		home := a.getenv("HOME")
		if home == "" {
			return "", hint(errors.New("there is no home directory to look for a configuration in"), "set HOME, or BEDPLATE_CONFIG to the file")
		}
		dir = filepath.Join(home, ".config")
	}
	return filepath.Join(dir, "bedplate", "config.yaml"), nil
}

// readConfig reads a configuration; one that isn't there is empty.
func readConfig(path string) (clientConfig, error) {
	var c clientConfig
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, fmt.Errorf("reading the client's configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConfigBytes))
	if err != nil {
		return c, fmt.Errorf("reading the client's configuration: %w", err)
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(&c); err != nil && !errors.Is(err, io.EOF) {
		return c, hint(fmt.Errorf("reading %s: %w", path, err), "it may have server, token, ca and ca_digest")
	}
	return c, nil
}

// writeConfig writes a configuration for its owner only: beside its name,
// flushed, and renamed.
func writeConfig(path string, c clientConfig) error {
	data, err := yaml.Marshal(c)
	if err != nil {
		return fmt.Errorf("encoding the client's configuration: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("writing the client's configuration: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".config-*") // mode 0600
	if err != nil {
		return fmt.Errorf("writing the client's configuration: %w", err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("writing the client's configuration: %w", err), os.Remove(f.Name()))
	}
	return nil
}

// settings returns the configuration in force: the file, then the
// environment, then flags.
func (a *app) settings() (clientConfig, error) {
	path, err := a.configPath()
	if err != nil && (a.flags.server == "" && a.getenv("BEDPLATE_SERVER") == "") {
		return clientConfig{}, err
	}
	var c clientConfig
	if err == nil {
		if c, err = readConfig(path); err != nil {
			return c, err
		}
		a.warnReadable(path, c)
	}
	for _, from := range []struct {
		to     *string
		values []string
	}{
		{&c.Server, []string{a.getenv("BEDPLATE_SERVER"), a.flags.server}},
		{&c.Token, []string{a.getenv("BEDPLATE_TOKEN"), a.flags.token}},
	} {
		for _, v := range from.values {
			if v != "" {
				*from.to = v
			}
		}
	}
	if err := c.setCA(a.flags.ca); err != nil {
		return c, err
	}
	if c.Server == "" {
		return c, hint(fmt.Errorf("no server is known: %s has none", path), "name one with --server or BEDPLATE_SERVER; `bedplate serve` writes the file on the machine it first runs on")
	}
	c.Server, err = serverAddress(c.Server)
	return c, err
}

// setCA takes --ca: a digest, or a file of certificates.
func (c *clientConfig) setCA(value string) error {
	if value == "" {
		return nil
	}
	c.CA, c.CADigest = "", ""
	if strings.HasPrefix(value, "sha256:") {
		c.CADigest = value
		return nil
	}
	data, err := os.ReadFile(value)
	if err != nil {
		return fmt.Errorf("reading the CA: %w", err)
	}
	c.CA = string(data)
	return nil
}

// warnReadable says so, once, if others can read a file with a token.
func (a *app) warnReadable(path string, c clientConfig) {
	info, err := os.Stat(path)
	if err == nil && c.Token != "" && info.Mode().Perm()&0o077 != 0 && !a.warned {
		a.warned = true
		fmt.Fprintf(a.stderr, "warning: others can read the token in %s: chmod 600 it\n", path)
	}
}

// serverAddress returns host:port of host, host:port or an https URL.
func serverAddress(s string) (string, error) {
	s = strings.TrimSuffix(strings.TrimPrefix(s, "https://"), "/")
	if strings.Contains(s, "/") {
		return "", usageError{fmt.Errorf("%q is not a server: host or host:port is expected", s)}
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host, port = strings.Trim(s, "[]"), defaultPort
	}
	if host == "" || port == "" {
		return "", usageError{fmt.Errorf("%q is not a server: host or host:port is expected", s)}
	}
	return net.JoinHostPort(host, port), nil
}

// roots returns the CA's certificates; nil: the system's.
func (c clientConfig) roots() (*x509.CertPool, error) {
	if c.CA == "" {
		return nil, nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(c.CA)) {
		return nil, hint(errors.New("the CA has no certificate in PEM"), "it is ca.crt in the server's data directory")
	}
	return pool, nil
}
