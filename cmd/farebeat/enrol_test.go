package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"image/png"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	goqr "github.com/piglig/go-qr"

	"github.com/farebeat/farebeat/configs"
	"github.com/farebeat/farebeat/edge/enrol"
	fleetenrol "github.com/farebeat/farebeat/fleet/enrol"
	"github.com/farebeat/farebeat/fleet/keys"
	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/fleet/ledger/ledgertest"
	"github.com/farebeat/farebeat/fleet/store"
	"github.com/farebeat/farebeat/fleet/tickets"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

// office is a fleet with an authority that runs as farebeat serve, and a command line.
type office struct {
	t       *testing.T
	dir     string // the configuration's folder, with data in it
	config  string
	address string // where devices join
}

func newOffice(t *testing.T) *office {
	t.Helper()
	o := &office{t: t, dir: t.TempDir(), address: freePort(t)}
	o.config = filepath.Join(o.dir, "farebeat.yaml")
	data := filepath.Join(o.dir, "data")
	text := "operator: op\ndata: " + data + "\nbroker:\n  metrics_address: ''\n  listeners:\n    - {name: mqtt, kind: tcp, address: '" + freePort(t) + "', anonymous_readers: true}\n" +
		"console: {address: ''}\nenrol: {address: '" + o.address + "', names: [localhost], broker: 'ssl://fleet.example:8883'}\n"
	if err := os.WriteFile(o.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	o.must("ca", "init", "--host", "127.0.0.1", "--config", o.config)
	return o
}

// serve runs farebeat serve until the test ends or it is stopped.
func (o *office) serve() (stop func()) {
	o.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	read, write := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		code := run(ctx, []string{"serve", "--config", o.config}, nil, io.Discard, write)
		_ = write.Close()
		ended <- code
	}()
	up := make(chan struct{})
	var once sync.Once
	var log bytes.Buffer
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := read.Read(b)
			log.Write(b[:n])
			if strings.Contains(log.String(), "enrolment on https://") {
				once.Do(func() { close(up) })
			}
			if err != nil {
				return
			}
		}
	}()
	select {
	case <-up:
	case code := <-ended:
		o.t.Fatalf("farebeat serve ended with %d: %s", code, log.String())
	}
	stop = sync.OnceFunc(func() {
		cancel()
		if code := <-ended; code != exitOK {
			o.t.Errorf("farebeat serve ended with %d", code)
		}
	})
	o.t.Cleanup(stop)
	return stop
}

// try runs a command line.
func (o *office) try(args ...string) (code int, out, errOut string) {
	o.t.Helper()
	var stdout, stderr bytes.Buffer
	code = run(o.t.Context(), args, strings.NewReader(""), &stdout, &stderr)
	return code, stdout.String(), stderr.String()
}

func (o *office) must(args ...string) string {
	o.t.Helper()
	code, out, errOut := o.try(args...)
	if code != exitOK {
		o.t.Fatalf("farebeat %s: %d %s", strings.Join(args, " "), code, errOut)
	}
	return out
}

// code makes a code and gives its URL.
func (o *office) code(args ...string) string {
	o.t.Helper()
	return strings.TrimSpace(o.must(append(append([]string{"enrol"}, args...), "--no-qr", "--config", o.config)...))
}

func (o *office) device(name string) string { return filepath.Join(o.dir, name) }

// open reads the store.
func (o *office) open() *store.Store {
	o.t.Helper()
	s, err := store.Open(o.t.Context(), filepath.Join(o.dir, "data", "farebeat.db"), store.Options{ReadOnly: true})
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(func() { s.Close() })
	return s
}

// A technician enrols a gateway and its machines, while farebeat serve runs.
func TestEnrolAGatewayAndItsMachines(t *testing.T) {
	o := newOffice(t)
	o.serve()
	gateway, machine := o.device("gw"), o.device("m")
	o.must("join", o.code("gateway", "1216"), "--out", gateway)
	o.must("join", o.code("machine", "1216-1", "--vehicle", "1216"), "--out", machine, "--route", "36", "--radio", "socket:/run/farebeat")
	c, err := configs.Load(configs.Options{File: filepath.Join(gateway, "farebeat.yaml")})
	if err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(gateway, enrol.DeviceFile)
	if c.Operator != "op" || c.Edge.Vehicle != "1216" || c.Edge.Radio != "ble:hci0" || c.Client.Server != "ssl://fleet.example:8883" || c.Client.CertFile != own || c.Client.KeyFile != own ||
		c.Client.EnrolURL != "https://127.0.0.1:"+portOf(o.address) && c.Client.EnrolURL != "https://localhost:"+portOf(o.address) {
		t.Errorf("the gateway's configuration: %+v", c.Client)
	}
	c, err = configs.Load(configs.Options{File: filepath.Join(machine, "farebeat.yaml")})
	if err != nil {
		t.Fatal(err)
	}
	if c.Machine.ID != "1216-1" || c.Machine.Vehicle != "1216" || c.Machine.Route != "36" || c.Machine.FirstEpoch != 1 || c.Machine.Radio != "socket:/run/farebeat" {
		t.Errorf("the machine's configuration: %+v", c.Machine)
	}
	key, err := readKey(c.Machine.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	if want := o.must("machine", "key", "1216-1", "--config", o.config); strings.TrimSpace(want) != hex.EncodeToString(key) {
		t.Error("the machine got another key")
	}
	for name, mode := range map[string]fs.FileMode{enrol.DeviceFile: 0o600, enrol.MachineFile: 0o600, "farebeat.yaml": 0o600, enrol.CAFile: 0o644} {
		if info, err := os.Stat(filepath.Join(machine, name)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := os.Stat(filepath.Join(machine, enrol.PendingFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the pending key is left: %v", err)
	}
	if err := checkFiles(t.Context(), c); err != nil && strings.Contains(err.Error(), "client.") {
		t.Error(err)
	}
	if code, _, errOut := o.try("join", o.code("gateway", "1216"), "--out", gateway); code != exitUsage || !strings.Contains(errOut, "--again") {
		t.Errorf("once more: %d %s", code, errOut)
	}
	before, _ := deviceFiles().ReadDevice(own)
	o.must("join", o.code("gateway", "1216"), "--out", gateway, "--again")
	if after, err := deviceFiles().ReadDevice(own); err != nil || after.Key.Equal(before.Key) || after.Cert.Equal(before.Cert) {
		t.Errorf("--again: %v", err)
	}
	var types []string
	for line := range strings.Lines(o.must("enrol", "list", "--json", "--config", o.config)) {
		var l struct{ Type string }
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatal(err)
		}
		types = append(types, l.Type)
	}
	if got := strings.Join(types, " "); got != "certificate certificate certificate" {
		t.Errorf("listed: %s", got)
	}
}

func portOf(address string) string { return address[strings.LastIndex(address, ":")+1:] }

// The wrong fingerprint: the device tells the server nothing, keeps its key, and no code is used.
func TestJoinRefusesAnotherAuthority(t *testing.T) {
	o := newOffice(t)
	o.serve()
	text := o.code("gateway", "1216")
	u, err := schemas.ParseEnrolURL(text)
	if err != nil {
		t.Fatal(err)
	}
	u.Authority[0] ^= 1
	code, _, errOut := o.try("join", u.String(), "--out", o.device("gw"))
	if code != exitFailed || !strings.Contains(errOut, "not of the authority with this fingerprint") {
		t.Errorf("%d %s", code, errOut)
	}
	if strings.Contains(errOut, u.Code) {
		t.Error("the error shows the code")
	}
	// And a server of the right authority, but under another name.
	right, _ := schemas.ParseEnrolURL(text)
	_, err = enrol.Join(t.Context(), enrol.JoinOptions{Files: deviceFiles(), Address: "ip6-localhost:1", Authority: right.Authority, Code: right.Code, Dir: o.device("x")})
	if err == nil {
		t.Error("nobody is there")
	}
	o.must("join", text, "--out", o.device("gw"))
}

// A server with a certificate of our authority for another name is not the fleet.
func TestJoinChecksTheName(t *testing.T) {
	o := newOffice(t)
	c := configs.Default()
	c.Data = filepath.Join(o.dir, "data")
	ca, err := loadCA(c)
	if err != nil {
		t.Fatal(err)
	}
	text, _, err := ca.ServerFile([]string{"other.example"}, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(text, text)
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int32
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }), ReadHeaderTimeout: time.Second}
	defer server.Close()
	go server.Serve(listener)
	_, err = enrol.Join(t.Context(), enrol.JoinOptions{Files: deviceFiles(), Address: listener.Addr().String(), Authority: ca.Fingerprint(), Code: strings.Repeat("A", 26), Dir: o.device("gw")})
	var wrong x509.HostnameError
	if !errors.As(err, &wrong) || asked.Load() != 0 {
		t.Errorf("%v, asked %d times", err, asked.Load())
	}
}

// A device without a good code waits until an administrator admits it.
func TestQuarantineAndAdmission(t *testing.T) {
	o := newOffice(t)
	o.serve()
	used := o.code("gateway", "1216")
	o.must("join", used, "--out", o.device("first"))
	u, err := schemas.ParseEnrolURL(used)
	if err != nil {
		t.Fatal(err)
	}
	waits := make(chan schemas.EnrolAnswer, 100)
	joined := make(chan error, 1)
	join := enrol.JoinOptions{
		Files:   deviceFiles(),
		Address: u.Address, Authority: u.Authority, Code: u.Code, Role: u.Role, Name: u.Name, Dir: o.device("second"), Least: time.Millisecond, Most: 10 * time.Millisecond,
		Waits: func(a schemas.EnrolAnswer) {
			select {
			case waits <- a:
			default:
			}
		},
	}
	go func() { _, err := enrol.Join(t.Context(), join); joined <- err }()
	a := <-waits
	if a.Reason != fleetenrol.CodeUsed {
		t.Errorf("waits because %q", a.Reason)
	}
	if out := o.must("enrol", "list", "--config", o.config); !strings.Contains(out, a.Fingerprint) {
		t.Errorf("not listed: %s", out)
	}
	if code, _, errOut := o.try("enrol", "admit", "0123456", "--role", "gateway", "--name", "1", "--config", o.config); code != exitUsage || !strings.Contains(errOut, "0 devices") {
		t.Errorf("another: %d %s", code, errOut)
	}
	o.must("enrol", "admit", a.Fingerprint[:12], "--role", "gateway", "--name", "1300", "--config", o.config)
	if err := <-joined; err != nil {
		t.Fatal(err)
	}
	d, err := deviceFiles().ReadDevice(filepath.Join(join.Dir, enrol.DeviceFile))
	if err != nil || d.Cert.Subject.CommonName != "gateway 1300" {
		t.Errorf("%v, %v", d.Cert.Subject, err)
	}
	// One without a code at all, which is dismissed.
	join.Code, join.Dir = "", o.device("third")
	go func() { _, err := enrol.Join(t.Context(), join); joined <- err }()
	key := ""
	for key == "" || key == a.Fingerprint {
		key = (<-waits).Fingerprint
	}
	o.must("enrol", "dismiss", key, "--config", o.config)
	var refused *enrol.Refused
	if err := <-joined; !errors.As(err, &refused) || refused.Reason != fleetenrol.Dismissed {
		t.Errorf("dismissed: %v", err)
	}
}

// An answer that is lost strands nobody: the next run asks with the same key and gets the same certificate.
func TestLostAnswer(t *testing.T) {
	o := newOffice(t)
	o.serve()
	u, err := schemas.ParseEnrolURL(o.code("machine", "1216-1"))
	if err != nil {
		t.Fatal(err)
	}
	join := enrol.JoinOptions{Files: deviceFiles(), Address: freePort(t), Authority: u.Authority, Code: u.Code, Role: u.Role, Name: u.Name, Dir: o.device("m")}
	if _, err := enrol.Join(t.Context(), join); err == nil {
		t.Fatal("nobody listens there")
	}
	// The fleet does all that is asked, and the device does not hear of it.
	if status := o.askBehind(u, filepath.Join(join.Dir, enrol.PendingFile)); status != http.StatusOK {
		t.Fatalf("status %d", status)
	}
	list := o.must("enrol", "list", "--json", "--config", o.config)
	join.Address = u.Address
	d, err := enrol.Join(t.Context(), join)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(list, `"type":"certificate"`) != 1 || !strings.Contains(list, fleetenrol.Serial(d.Cert)) || o.must("enrol", "list", "--json", "--config", o.config) != list {
		t.Errorf("it got another certificate than the one whose answer was lost: %s", list)
	}
}

// askBehind asks with a code and a pending key behind a device's back, and throws the answer away.
func (o *office) askBehind(u schemas.EnrolURL, pending string) int {
	o.t.Helper()
	text, err := os.ReadFile(pending)
	if err != nil {
		o.t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		o.t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		o.t.Fatal(err)
	}
	body, err := schemas.Encode(&schemas.EnrolRequest{CSR: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), Code: u.Code})
	if err != nil {
		o.t.Fatal(err)
	}
	authority, err := os.ReadFile(filepath.Join(o.dir, "data", "ca.pem"))
	if err != nil {
		o.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}}
	resp, err := client.Post("https://"+u.Address+schemas.EnrolJoinPath, "application/json", bytes.NewReader(body))
	if err != nil {
		o.t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// A crash at each step between the answer and the last file: the next run ends with everything in place.
func TestCrashWhileJoining(t *testing.T) {
	o := newOffice(t)
	o.serve()
	u, err := schemas.ParseEnrolURL(o.code("machine", "1216-1"))
	if err != nil {
		t.Fatal(err)
	}
	crash := errors.New("crash")
	join := enrol.JoinOptions{Files: deviceFiles(), Address: u.Address, Authority: u.Authority, Code: u.Code, Dir: o.device("m"), Before: func(schemas.EnrolAnswer) error { return crash }}
	if _, err := enrol.Join(t.Context(), join); !errors.Is(err, crash) {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(join.Dir, enrol.DeviceFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal("the certificate is in place before the rest")
	}
	pending, err := os.ReadFile(filepath.Join(join.Dir, enrol.PendingFile))
	if err != nil {
		t.Fatal(err)
	}
	join.Before = nil
	d, err := enrol.Join(t.Context(), join)
	if err != nil {
		t.Fatal(err)
	}
	// The crash after the certificate and before the pending key is gone.
	if err := os.WriteFile(filepath.Join(join.Dir, enrol.PendingFile), pending, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, again := range []bool{false, true} {
		join.Again = again
		if same, err := enrol.Join(t.Context(), join); err != nil || !same.Cert.Equal(d.Cert) {
			t.Errorf("again %v: %v", again, err)
		}
		if err := os.WriteFile(filepath.Join(join.Dir, enrol.PendingFile), pending, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// A device renews by itself, with another key, in one step, and goes on after a crash or a lost answer with the key that it asked with.
func TestRenewByItself(t *testing.T) {
	o := newOffice(t)
	o.serve()
	dir := o.device("gw")
	o.must("join", o.code("gateway", "1216"), "--out", dir)
	c, err := configs.Load(configs.Options{File: filepath.Join(dir, "farebeat.yaml")})
	if err != nil {
		t.Fatal(err)
	}
	r, err := renewer(c.Client, time.Now, newLogger(io.Discard, 0))
	if err != nil || r == nil {
		t.Fatal(err)
	}
	before, err := deviceFiles().ReadDevice(c.Client.CertFile)
	if err != nil {
		t.Fatal(err)
	}
	var refused *enrol.Refused
	if _, err := r.Renew(t.Context()); !errors.As(err, &refused) || refused.Reason != fleetenrol.TooEarly || !refused.Passing() {
		t.Errorf("too early: %v", err)
	}
	pending, err := os.ReadFile(c.Client.CertFile + ".next")
	if err != nil {
		t.Fatal(err)
	}
	// A certificate that is near its end, of the same authority; the register does not know it, as after a restore.
	old := agedDevice(t, o, before, c.Client.CertFile)
	next, err := r.Renew(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if next.Key.Equal(old.Key) || !next.Cert.NotAfter.After(old.Cert.NotAfter) {
		t.Error("the key is the same, or the end")
	}
	if kept, err := deviceFiles().ReadDevice(c.Client.CertFile); err != nil || !kept.Cert.Equal(next.Cert) {
		t.Errorf("not kept: %v", err)
	}
	// The answer was lost, as it were: the old pair is there still, and the key that was asked with.
	agedAgain(t, old, c.Client.CertFile, pending)
	if same, err := r.Renew(t.Context()); err != nil || !same.Cert.Equal(next.Cert) {
		t.Errorf("after a lost answer: %v", err)
	}
	// In the background it does so when it is time, and once.
	agedAgain(t, old, c.Client.CertFile, pending)
	stop, err := startRenewal(t.Context(), c.Client, func() time.Time { return time.Now().Add(time.Minute) }, newLogger(io.Discard, 0))
	if err != nil {
		t.Fatal(err)
	}
	for {
		if d, err := deviceFiles().ReadDevice(c.Client.CertFile); err == nil && d.Cert.Equal(next.Cert) {
			break
		}
		time.Sleep(time.Millisecond) // for a file
	}
	stop()
	o.must("revoke", "gateway", "1216", "--reason", "stolen", "--config", o.config)
	agedAgain(t, old, c.Client.CertFile, pending)
	if _, err := r.Renew(t.Context()); !errors.As(err, &refused) || refused.Reason != fleetenrol.Revoked {
		t.Errorf("revoked: %v", err)
	}
}

// agedDevice puts a certificate into a device's file that is about to be over.
func agedDevice(t *testing.T, o *office, d enrol.Device, path string) enrol.Device {
	t.Helper()
	c := configs.Default()
	c.Data = filepath.Join(o.dir, "data")
	ca, err := loadCA(c)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := topics.New("op")
	if err != nil {
		t.Fatal(err)
	}
	// It was issued now, and over in a minute: the renewer's clock is two thirds on.
	d.Cert, err = ca.IssueClient(d.Key.Public(), tree, topics.Identity{Role: topics.RoleGateway, Name: "1216"}, time.Now().Add(-23*time.Hour), 23*time.Hour+5*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	agedAgain(t, d, path, nil)
	return d
}

// agedAgain writes a device's file, and the key of a request that is under way.
func agedAgain(t *testing.T, d enrol.Device, path string, pending []byte) {
	t.Helper()
	key, err := fleetenrol.KeyPEM(d.Key)
	if err != nil {
		t.Fatal(err)
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: d.Cert.Raw}), key...)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if pending != nil {
		if err := os.WriteFile(path+".next", pending, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// The unit that takes a broken one's place begins a new epoch, above what the ledger has, and the broken one's certificate is void.
func TestReplaceAMachine(t *testing.T) {
	o := newOffice(t)
	if _, err := keys.Create(filepath.Join(o.dir, "data", "master.key")); err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(t.Context(), filepath.Join(o.dir, "data", "farebeat.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	slot, payload := ledgertest.New(t, "1216-1", "1216", 3).Mint(5).Batch(1, 5)
	if _, err := ledger.New(db.Ledger(), ledgertest.Keys(t), time.Now).Ingest(t.Context(), slot, payload); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	o.serve()
	first, second := o.device("first"), o.device("second")
	o.must("join", o.code("machine", "1216-1", "--vehicle", "1216"), "--out", first)
	o.must("join", o.code("machine", "1216-1", "--vehicle", "1216", "--replace"), "--out", second)
	for dir, want := range map[string]uint32{first: 4, second: 5} {
		c, err := configs.Load(configs.Options{File: filepath.Join(dir, "farebeat.yaml")})
		if err != nil || c.Machine.FirstEpoch != want {
			t.Errorf("%s begins with epoch %d, %v; want %d", dir, c.Machine.FirstEpoch, err, want)
		}
	}
	if epoch := firstSold(t, second); epoch != 5 {
		t.Errorf("the new unit's journal begins with epoch %d", epoch)
	}
	old, err := deviceFiles().ReadDevice(filepath.Join(first, enrol.DeviceFile))
	if err != nil {
		t.Fatal(err)
	}
	out := o.must("enrol", "list", "--all", "--config", o.config)
	if !strings.Contains(out, fleetenrol.Serial(old.Cert)) || !strings.Contains(out, ": replaced") {
		t.Errorf("listed: %s", out)
	}
}

// firstSold runs a machine as its folder has it until it stored a record, and gives that record's epoch.
func firstSold(t *testing.T, dir string) uint32 {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	read, write := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		code := run(ctx, []string{"machine", "run", "--config", filepath.Join(dir, "farebeat.yaml"), "--route", "36", "--offline", "--stock", "1", "--journal-log"}, nil, write, io.Discard)
		_ = write.Close()
		ended <- code
	}()
	var record struct{ Epoch uint32 }
	err := json.NewDecoder(read).Decode(&record)
	go func() { _, _ = io.Copy(io.Discard, read) }()
	stop()
	if code := <-ended; code != exitOK || err != nil {
		t.Fatalf("farebeat machine run: %d, %v", code, err)
	}
	return record.Epoch
}

// A gateway that is revoked loses its tickets, and another one of its vehicle gets them again.
func TestRevokeAGateway(t *testing.T) {
	o := newOffice(t)
	o.serve()
	o.must("join", o.code("gateway", "1216"), "--out", o.device("old"))
	if out := o.must("revoke", "gateway", "1216", "--reason", "stolen", "--by", "ann", "--config", o.config); out != "gateway 1216: 1 certificates revoked\n" {
		t.Error(out)
	}
	db := o.open()
	if _, is := revokedTickets(t, db)["1216"]; !is {
		t.Error("the tickets stand")
	}
	o.must("join", o.code("gateway", "1216", "--replace"), "--out", o.device("new"))
	for {
		if _, is := revokedTickets(t, db)["1216"]; !is {
			break
		}
		time.Sleep(time.Millisecond) // for the service, which takes the order
	}
}

func revokedTickets(t *testing.T, db *store.Store) map[string]tickets.Order {
	t.Helper()
	list, err := db.Tickets().Orders(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return tickets.Revoked(list)
}

// Commands work while the service does not run, also several at once.
func TestTwoCommandsAtOnce(t *testing.T) {
	o := newOffice(t)
	var group sync.WaitGroup
	urls := make([]string, 4)
	for i, name := range []string{"1", "2", "3", "4"} {
		group.Go(func() {
			var out, errOut bytes.Buffer
			if code := run(t.Context(), []string{"enrol", "gateway", name, "--no-qr", "--config", o.config}, nil, &out, &errOut); code != exitOK {
				t.Errorf("%d %s", code, errOut.String())
			}
			urls[i] = strings.TrimSpace(out.String())
		})
	}
	group.Wait()
	if left, _ := os.ReadDir(identityOrders(configs.Config{Data: filepath.Join(o.dir, "data")})); len(left) > 0 {
		t.Errorf("%d orders are left", len(left))
	}
	o.serve()
	for i, url := range urls {
		o.must("join", url, "--out", o.device("gw"+string(rune('1'+i))))
	}
}

// What the broker asks of a client's certificate: a folder without an authority voids nothing.
func TestVoidWithoutAnAuthority(t *testing.T) {
	c := configs.Default()
	c.Data = t.TempDir()
	ids, err := openIdentities(t.Context(), serverOptions{config: c, now: time.Now})
	if err != nil || ids.void() != nil || ids.parts() != nil || ids.url() != "" {
		t.Errorf("%+v, %v", ids, err)
	}
	c.Enrol.Address = "127.0.0.1:8444"
	if _, err := openIdentities(t.Context(), serverOptions{config: c, now: time.Now}); err == nil || !strings.Contains(err.Error(), "farebeat ca init") {
		t.Errorf("an address without an authority: %v", err)
	}
	if _, err := enrolAddress(c.Enrol, ""); err != nil {
		t.Error(err)
	}
	for _, c.Enrol.Address = range []string{"", ":8444", "0.0.0.0:8444"} {
		if address, err := enrolAddress(c.Enrol, ""); err == nil {
			t.Errorf("%q is reached at %s", c.Enrol.Address, address)
		}
	}
	c.Enrol.Names = []string{"fleet.example", "::1"}
	if address, err := enrolAddress(c.Enrol, ""); err != nil || address != "fleet.example:8444" {
		t.Errorf("%s, %v", address, err)
	}
	c.Broker.Listeners = append(c.Broker.Listeners, configs.Listener{Name: "d", Kind: "tls", Address: "0.0.0.0:8883"})
	if got := brokerURL(c); got != "ssl://fleet.example:8883" {
		t.Errorf("the broker is %s", got)
	}
}

// The QR code is the URL, on paper and in the terminal.
func TestQRCode(t *testing.T) {
	o := newOffice(t)
	picture := filepath.Join(o.dir, "code.png")
	out := o.must("enrol", "gateway", "1216", "--png", picture, "--config", o.config)
	lines := strings.Split(strings.TrimRight(out, "\n"), "\n")
	url := lines[len(lines)-1]
	f, err := os.Open(picture)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	img, err := png.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := goqr.Decode(img); err != nil || got != url {
		t.Errorf("the picture says %q, %v; want %q", got, err, url)
	}
	if got, err := goqr.Decode(blocks(lines[:len(lines)-1])); err != nil || got != url {
		t.Errorf("the terminal says %q, %v; want %q", got, err, url)
	}
	if code, _, _ := o.try("enrol", "gateway", "1216", "--png", picture, "--no-qr", "--config", o.config); code == exitOK {
		t.Error("the picture was overwritten")
	}
}
