package export_test

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/fleet/console/export"
	"github.com/farebeat/farebeat/fleet/ledger"
	"github.com/farebeat/farebeat/fleet/ledger/ledgertest"
	"github.com/farebeat/farebeat/fleet/store"
)

func newLedger(t *testing.T) *ledger.Ledger {
	t.Helper()
	s, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "fleet.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	l := ledger.New(s.Ledger(), ledgertest.Keys(t), func() time.Time { return ledgertest.Start() })
	for i, id := range []string{"m", "=HYPERLINK(1)", "<b>n"} {
		slot, payload := ledgertest.New(t, id, "v", 1).Mint(30).Batch(uint32(1+i), 30)
		if _, err := l.Ingest(t.Context(), slot, payload); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// unpack reads a zip file back.
func unpack(t *testing.T, b []byte) (names []string, files map[string][]byte) {
	t.Helper()
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	files = map[string][]byte{}
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		if files[f.Name], err = io.ReadAll(r); err != nil { // checks the sum of the file
			t.Fatal(err)
		}
		names = append(names, f.Name)
	}
	return names, files
}

func table(t *testing.T, b []byte) [][]string {
	t.Helper()
	rows, err := csv.NewReader(bytes.NewReader(b)).ReadAll()
	if err != nil || len(rows) == 0 {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	return rows
}

func TestTheZipIsTheDataPackage(t *testing.T) {
	l := newLedger(t)
	f := ledger.Filter{From: "2018-06-12", To: "2018-06-12"}
	var out bytes.Buffer
	if _, err := export.WriteTIDES(t.Context(), &out, "tampa", t.TempDir(), l, f); err != nil {
		t.Fatal(err)
	}
	names, files := unpack(t, out.Bytes())
	if diff := cmp.Diff([]string{"fare_transactions.csv", "devices.csv", "datapackage.json"}, names); diff != "" {
		t.Fatal(diff)
	}
	var alone bytes.Buffer
	if _, err := l.Export(t.Context(), &alone, ledger.CSV, f); err != nil || !bytes.Equal(alone.Bytes(), files["fare_transactions.csv"]) {
		t.Errorf("the table in the package is another than the table alone (%v)", err)
	}
	fares, devices := table(t, files["fare_transactions.csv"]), table(t, files["devices.csv"])
	if diff := cmp.Diff(ledger.FareColumns(), fares[0]); diff != "" || len(fares) != 1+30+29+28 {
		t.Errorf("%d lines, %s", len(fares), diff)
	}
	if diff := cmp.Diff(ledger.DeviceColumns(), devices[0]); diff != "" || len(devices) != 4 {
		t.Errorf("%d lines, %s", len(devices), diff)
	}
	var p struct {
		Agency    string
		Resources []struct {
			Name, Path, Hash string
			Bytes            int64
		}
	}
	if err := json.Unmarshal(files["datapackage.json"], &p); err != nil || p.Agency != "tampa" || len(p.Resources) != 2 {
		t.Fatalf("%+v, %v", p, err)
	}
	for _, r := range p.Resources {
		sum := sha256.Sum256(files[r.Path])
		if r.Hash != "SHA256:"+hex.EncodeToString(sum[:]) || r.Bytes != int64(len(files[r.Path])) || r.Path != r.Name+".csv" {
			t.Errorf("%+v is not what is in the zip", r)
		}
	}
}

// broken takes some bytes and then no more, as a connection that ends.
type broken struct{ left int }

var errGone = errors.New("gone")

func (b *broken) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		return 0, errGone
	}
	return len(p), nil
}

func TestWhatIsNotWholeIsNoZip(t *testing.T) {
	l := newLedger(t)
	ctx, stop := context.WithCancel(t.Context())
	stop()
	var out bytes.Buffer
	if _, err := export.WriteTIDES(ctx, &out, "tampa", t.TempDir(), l, ledger.Filter{}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if _, err := zip.NewReader(bytes.NewReader(out.Bytes()), int64(out.Len())); err == nil {
		t.Error("half a package opens as a zip file")
	}
	if _, err := export.WriteTIDES(t.Context(), &broken{100}, "tampa", t.TempDir(), l, ledger.Filter{}); !errors.Is(err, errGone) {
		t.Error(err)
	}
	out.Reset()
	if _, err := export.WriteTIDES(t.Context(), &out, "tampa", t.TempDir(), l, ledger.Filter{From: "2018-06-13", To: "2018-06-12"}); err == nil || out.Len() > 0 {
		t.Errorf("a filter that is none wrote %d bytes, %v", out.Len(), err)
	}
}
