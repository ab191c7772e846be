// Package tampa carries a real city's timetable, small enough to ship: what the
// demo's buses drive and what the tests expect of them.
//
// Source: GTFS feed of Hillsborough Area Regional Transit (HART), Tampa, Florida,
// published June 2018 (http://www.gohart.org). Kept of it: route, block, trip, first departure and
// last arrival. The services of Tuesday 12, Friday 15, Saturday 16 and Sunday 17
// June 2018 stand for Monday to Thursday, Friday, Saturday and Sunday of any
// year. Made by fleet/expect/tampa/derive.
package tampa

import (
	"archive/zip"
	"bytes"
	"context"
	_ "embed"
	"fmt"

	"github.com/farebeat/farebeat/fleet/expect/gtfs"
)

//go:generate go run ./derive -feed gtfs-tampa-hart-2018.zip -out hart.zip

//go:embed hart.zip
var archive []byte

// Zip is the feed as a GTFS zip file, to be written out and looked at. It is the
// caller's to keep.
func Zip() []byte { return bytes.Clone(archive) }

// Feed reads the timetable.
func Feed(ctx context.Context) (*gtfs.Feed, error) {
	files, err := zip.NewReader(bytes.NewReader(archive), int64(len(archive)))
	if err != nil {
		return nil, fmt.Errorf("open the shipped Tampa timetable: %w", err)
	}
	return gtfs.Read(ctx, files)
}
