package main

import (
	"bufio"
	"fmt"
	"io"

	goqr "github.com/piglig/go-qr"
)

// qrCode is a QR code with a quiet zone around it.
type qrCode struct{ code *goqr.QrCode }

// quietZone is how many light modules ISO/IEC 18004 wants around a code.
const quietZone = 4

func newQR(text string) (qrCode, error) {
	code, err := goqr.EncodeText(text, goqr.Medium)
	if err != nil {
		return qrCode{}, fmt.Errorf("make a QR code: %w", err)
	}
	return qrCode{code}, nil
}

func (q qrCode) png() ([]byte, error) {
	return q.code.ToPNGBytes(goqr.NewQrCodeImgConfig(8, quietZone))
}

// dark reports whether a module is; outside of the code none is.
func (q qrCode) dark(x, y int) bool {
	n := q.code.Size()
	return x >= 0 && y >= 0 && x < n && y < n && q.code.Module(x, y)
}

// print draws two rows of modules in a line of text. On a terminal it sets black on white, whatever the colours are there.
func (q qrCode) print(w io.Writer, terminal bool) error {
	out := bufio.NewWriter(w)
	for y := -quietZone; y < q.code.Size()+quietZone; y += 2 {
		if terminal {
			fmt.Fprint(out, "\x1b[38;5;16;48;5;231m")
		}
		for x := -quietZone; x < q.code.Size()+quietZone; x++ {
			fmt.Fprint(out, [2][2]string{{" ", "▄"}, {"▀", "█"}}[number(q.dark(x, y))][number(q.dark(x, y+1))])
		}
		if terminal {
			fmt.Fprint(out, "\x1b[0m")
		}
		fmt.Fprintln(out)
	}
	return out.Flush()
}

func number(b bool) int {
	if b {
		return 1
	}
	return 0
}
