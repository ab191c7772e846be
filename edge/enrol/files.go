package enrol

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// The files of a device's folder.
const (
	DeviceFile  = "device.pem" // key and certificate, mode 0600; names both client.cert_file and client.key_file
	PendingFile = "device.key" // key of a request that is under way, mode 0600
	CAFile      = "ca.pem"
	MachineFile = "machine.key" // of a machine, mode 0600
)

// nextSuffix is behind the name of a device's file for the key of a renewal that is under way.
const nextSuffix = ".next"

// Files are how the files of a device are read and written: they are secrets, and all that it is known by.
type Files struct {
	// Read reads a file that only its owner may read or write. Where there is none, errors.Is(err, fs.ErrNotExist) holds.
	Read func(path string) ([]byte, error)
	// Replace puts a file in place whole: after a crash there is the one of before or the new one. The new one is on disk when it returns.
	Replace func(path string, body []byte, mode fs.FileMode) error
}

// Device is a device's key and certificate.
type Device struct {
	Key  *ecdsa.PrivateKey
	Cert *x509.Certificate
}

// ReadDevice reads the file with a device's key and certificate.
func (f Files) ReadDevice(path string) (Device, error) {
	text, err := f.Read(path)
	if err != nil {
		return Device{}, err
	}
	pair, err := tls.X509KeyPair(text, text)
	if err != nil {
		return Device{}, fmt.Errorf("%s: it is not a certificate with its key: %w", path, err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return Device{}, fmt.Errorf("%s: its key is not ECDSA", path)
	}
	cert, err := x509.ParseCertificate(pair.Certificate[0])
	return Device{key, cert}, err
}

// pem is the file's content. The certificate goes first, for programs that read only that.
func (d Device) pem() ([]byte, error) {
	key, err := keyPEM(d.Key)
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: d.Cert.Raw}), key...), err
}

func (d Device) tls() tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{d.Cert.Raw}, PrivateKey: d.Key, Leaf: d.Cert}
}

func keyPEM(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), err
}

// pendingKey reads the key of a request that is under way, or makes one that is on disk before anybody sees it.
func (f Files) pendingKey(path string) (*ecdsa.PrivateKey, error) {
	text, err := f.Read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return f.newKey(path)
	}
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("%s: it is no private key in PEM form: remove it, and another is made", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := parsed.(*ecdsa.PrivateKey)
	if err != nil || !ok {
		return nil, fmt.Errorf("%s: it is no ECDSA key: remove it, and another is made", path)
	}
	return key, nil
}

func (f Files) newKey(path string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	text, err := keyPEM(key)
	if err != nil {
		return nil, err
	}
	return key, f.Replace(path, text, 0o600)
}

// request is a certificate request: the key, and the proof that it is here. There are no names in it.
func request(key *ecdsa.PrivateKey) (string, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), err
}

// remove deletes a file that may be gone already. One that is back after a loss of power does no harm.
func remove(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
