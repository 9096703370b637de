package sshd

import (
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/crypto/ssh"
)

// HostKeyFile is the name of the host key's file in the data directory.
const HostKeyFile = "ssh_host_ed25519_key"

// HostKey returns the host key that is kept in dir, and makes one the first
// time: clients know the server by it.
func HostKey(dir string, rand io.Reader) (ssh.Signer, error) {
	path := filepath.Join(dir, HostKeyFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		text, err = makeHostKey(path, rand)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the SSH host key: %w", err)
	}
	key, err := ssh.ParsePrivateKey(text)
	if err != nil {
		return nil, fmt.Errorf("file %s is damaged (%v): restore it from a backup, or move it away: then a new one is made, and clients ask whether they may trust it", path, err)
	}
	return key, nil
}

// makeHostKey makes a key; after a crash at any moment its file is whole or not there.
func makeHostKey(path string, rand io.Reader) ([]byte, error) {
	_, key, err := ed25519.GenerateKey(rand)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(key, "bedplate")
	if err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(block)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+HostKeyFile+".*") // mode 0600
	if err != nil {
		return nil, err
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return nil, errors.Join(err, os.Remove(f.Name()))
	}
	return text, nil
}
