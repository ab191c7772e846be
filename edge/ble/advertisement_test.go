package ble

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"
)

// The bytes on air, as docs/ble.md has them for machine vendors.
const (
	goldenAdvertising  = "02010611 07482b7d0e3f5a619c0a4d2f4c0000e1b7"
	goldenScanResponse = "0effffff" + "40dafb154cc5682f" + "2c01" + "01"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(string(bytes.ReplaceAll([]byte(s), []byte(" "), nil)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAdvertisementOnAir(t *testing.T) {
	want := Advertisement{IDHint: IDHint("1216-1"), Pending: 300, State: StatePending}
	advertising, scanResponse := want.Encode()
	if !bytes.Equal(advertising, unhex(t, goldenAdvertising)) {
		t.Errorf("advertising data % x", advertising)
	}
	if !bytes.Equal(scanResponse, unhex(t, goldenScanResponse)) {
		t.Errorf("scan response % x", scanResponse)
	}
	if got, err := ParseAdvertisement(advertising, scanResponse); err != nil || got != want {
		t.Errorf("parsed %+v, %v", got, err)
	}
	if len(advertising) > 31 || len(scanResponse) > 31 {
		t.Errorf("%d and %d bytes, at most 31 fit", len(advertising), len(scanResponse))
	}
}

func TestParseAdvertisement(t *testing.T) {
	advertising, scanResponse := Advertisement{Pending: 7}.Encode()
	uuid := serviceUUID()
	other := bytes.Repeat([]byte{9}, 16)
	for name, tc := range map[string]struct {
		advertising, scanResponse []byte
		ours                      bool
	}{
		"as encoded":               {advertising, scanResponse, true},
		"swapped":                  {scanResponse, advertising, true},
		"all in one":               {append(bytes.Clone(advertising), scanResponse...), nil, true},
		"padded":                   {append(bytes.Clone(advertising), 0, 0, 0), append(bytes.Clone(scanResponse), 0), true},
		"second of two services":   {append([]byte{33, adSomeUUID128}, append(other, uuid[:]...)...), scanResponse, true},
		"a name besides":           {append([]byte{3, 0x09, 'T', 'V'}, advertising...), scanResponse, true},
		"nothing":                  {nil, nil, false},
		"no scan response":         {advertising, nil, false},
		"no service":               {[]byte{2, adFlags, 6}, scanResponse, false},
		"other service":            {append([]byte{17, adAllUUID128}, other...), scanResponse, false},
		"odd list of services":     {append([]byte{18, adAllUUID128, 1}, uuid[:]...), scanResponse, false},
		"length beyond the end":    {append(bytes.Clone(advertising), 255, adAllUUID128), scanResponse, false},
		"only a length":            {append(bytes.Clone(advertising), 1), scanResponse, false},
		"other company":            {advertising, append([]byte{14, adManufacturerData, 0x4c, 0}, scanResponse[4:]...), false},
		"short manufacturer data":  {advertising, []byte{4, adManufacturerData, 0xff, 0xff, 1}, false},
		"services behind padding":  {append([]byte{0}, advertising...), scanResponse, false},
		"manufacturer of one byte": {advertising, []byte{2, adManufacturerData, 0xff}, false},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseAdvertisement(tc.advertising, tc.scanResponse)
			if tc.ours != (err == nil) {
				t.Fatalf("%+v, %v", got, err)
			}
			if err != nil && (!errors.Is(err, ErrForeign) || got != Advertisement{}) {
				t.Errorf("%+v, %v", got, err)
			}
			if err == nil && got.Pending != 7 {
				t.Errorf("%+v", got)
			}
		})
	}
}

func FuzzAdvertisement(f *testing.F) {
	advertising, scanResponse := Advertisement{Pending: 7, State: StateFault}.Encode()
	f.Add(advertising, scanResponse)
	f.Add([]byte{255, 7, 1}, []byte{0, 0})
	f.Add([]byte{3, 0x16, 1}, []byte{5, 0x07, 1, 2, 3, 4})
	f.Fuzz(func(t *testing.T, a, b []byte) {
		got, err := ParseAdvertisement(a, b)
		if err != nil {
			if got != (Advertisement{}) {
				t.Fatalf("%+v with %v", got, err)
			}
			return
		}
		again, err := ParseAdvertisement(got.Encode())
		if err != nil || again != got {
			t.Fatalf("%+v, then %+v, %v", got, again, err)
		}
	})
}
