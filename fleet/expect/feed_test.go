package expect_test

import (
	"maps"
	"testing/fstest"
)

// feedFS is a minimal feed in Berlin; files replaces or adds to it, "-" removes.
func feedFS(files map[string]string) fstest.MapFS {
	all := map[string]string{
		"agency.txt":   "agency_name,agency_url,agency_timezone\nX,http://x,Europe/Berlin\n",
		"calendar.txt": "service_id,monday,tuesday,wednesday,thursday,friday,saturday,sunday,start_date,end_date\nD,1,1,1,1,1,1,1,20260101,20261231\n",
	}
	maps.Copy(all, files)
	fsys := fstest.MapFS{}
	for name, text := range all {
		if text != "-" {
			fsys[name] = &fstest.MapFile{Data: []byte(text)}
		}
	}
	return fsys
}
