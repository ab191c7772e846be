package initrd

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
)

// Modules lists the files of kernel modules under dir and of those that they need, in the order in which they are to be
// loaded. Each must be a module, not a part of the kernel itself.
func Modules(dir string, wanted ...string) ([]string, error) {
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if name, ok := strings.CutSuffix(filepath.Base(p), ".ko"); ok {
			files[moduleName(name)] = p
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look for kernel modules: %w", err)
	}
	p := plan{files: files, seen: map[string]bool{}}
	for _, name := range wanted {
		if err := p.add(name); err != nil {
			return nil, err
		}
	}
	return p.order, nil
}

// moduleName has the two spellings of a module's name fall together.
func moduleName(s string) string { return strings.ReplaceAll(s, "-", "_") }

type plan struct {
	files map[string]string
	seen  map[string]bool
	order []string
}

func (p *plan) add(name string) error {
	name = moduleName(name)
	if p.seen[name] {
		return nil
	}
	p.seen[name] = true
	file, ok := p.files[name]
	if !ok {
		return fmt.Errorf("kernel module %s is not there: take a kernel that has it as a module, such as Debian's linux-image-amd64", name)
	}
	needs, err := dependencies(file)
	if err != nil {
		return err
	}
	for _, n := range needs {
		if err := p.add(n); err != nil {
			return err
		}
	}
	p.order = append(p.order, file)
	return nil
}

// dependencies reads what a module says that it needs.
func dependencies(file string) ([]string, error) {
	f, err := elf.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read kernel module %s: %w", file, err)
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("read kernel module %s: it has no section .modinfo", file)
	}
	info, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("read kernel module %s: %w", file, err)
	}
	for line := range bytes.SplitSeq(info, []byte{0}) {
		if list, ok := bytes.CutPrefix(line, []byte("depends=")); ok && len(list) > 0 {
			return strings.Split(string(list), ","), nil
		}
	}
	return nil, nil
}
