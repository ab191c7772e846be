package initrd

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// member is an entry of a cpio archive.
type member struct {
	Name, Content string
	Mode          uint64
}

// list reads an archive as the kernel does.
func list(t *testing.T, b []byte) (out []member) {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	for len(all) > 0 {
		if len(all) < 110 || string(all[:6]) != "070701" {
			t.Fatalf("no header at %q", all[:min(20, len(all))])
		}
		field := func(n int) uint64 {
			v, err := strconv.ParseUint(string(all[6+8*n:14+8*n]), 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
		size, nameSize, mode := int(field(6)), int(field(11)), field(1)
		name := string(all[110 : 110+nameSize-1])
		at := (110 + nameSize + 3) &^ 3
		out = append(out, member{name, string(all[at : at+size]), mode})
		all = all[(at+size+3)&^3:]
	}
	return out
}

func TestArchive(t *testing.T) {
	var b bytes.Buffer
	a := NewArchive(&b)
	err := errors.Join(a.Device("/dev/console", 5, 1), a.File("bin/x", 0o755, []byte("12345")), a.File("/bin/yy", 0o600, nil), a.Dir("bin/deep/er"), a.Close())
	if err != nil {
		t.Fatal(err)
	}
	want := []member{
		{"dev", "", 0o040755},
		{"dev/console", "", 0o020600},
		{"bin", "", 0o040755},
		{"bin/x", "12345", 0o100755},
		{"bin/yy", "", 0o100600},
		{"bin/deep", "", 0o040755},
		{"bin/deep/er", "", 0o040755},
		{"TRAILER!!!", "", 0},
	}
	if diff := cmp.Diff(want, list(t, b.Bytes())); diff != "" {
		t.Error(diff)
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errors.New("full") }

func TestArchiveReportsAFullDisk(t *testing.T) {
	a := NewArchive(fullDisk{})
	if err := errors.Join(a.File("x", 0o600, make([]byte, 1<<20)), a.Close()); err == nil {
		t.Error("nothing was written and nobody says so")
	}
}

// object makes an object file with a section .modinfo.
func object(info string) []byte {
	names := "\x00.modinfo\x00.shstrtab\x00"
	const header, section = 64, 64
	h := elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1}, Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1,
		Shoff: uint64(header + len(info) + len(names)), Ehsize: header, Shentsize: section, Shnum: 3, Shstrndx: 2,
	}
	var b bytes.Buffer
	_ = binary.Write(&b, binary.LittleEndian, h)
	b.WriteString(info + names)
	_ = binary.Write(&b, binary.LittleEndian, []elf.Section64{
		{},
		{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: header, Size: uint64(len(info))},
		{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: uint64(header + len(info)), Size: uint64(len(names))},
	})
	return b.Bytes()
}

func TestModulesInOrder(t *testing.T) {
	dir := t.TempDir()
	for path, info := range map[string]string{
		"drivers/hci_vhci.ko": "license=GPL\x00depends=blue-tooth\x00", "net/blue_tooth.ko": "depends=rfkill,crc16\x00",
		"net/rfkill.ko": "depends=\x00", "lib/crc16.ko": "license=GPL\x00", "lib/other.ko": "depends=lost\x00",
	} {
		path = filepath.Join(dir, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, object(info), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Modules(dir, "hci-vhci", "rfkill")
	if err != nil {
		t.Fatal(err)
	}
	for i := range got {
		got[i] = filepath.Base(got[i])
	}
	if diff := cmp.Diff([]string{"rfkill.ko", "crc16.ko", "blue_tooth.ko", "hci_vhci.ko"}, got); diff != "" {
		t.Error(diff)
	}
	if _, err := Modules(dir, "other"); err == nil || !strings.Contains(err.Error(), "kernel module lost is not there") {
		t.Errorf("a module without what it needs: %v", err)
	}
	if _, err := Modules(filepath.Join(dir, "nowhere"), "rfkill"); err == nil {
		t.Error("a folder that is not there was read")
	}
}
