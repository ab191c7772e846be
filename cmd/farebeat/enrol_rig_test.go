package main

import (
	"image"
	"image/color"
	"unicode/utf8"
)

// blocks reads half blocks as a camera would.
func blocks(lines []string) image.Image {
	const scale = 8
	img := image.NewGray(image.Rect(0, 0, utf8.RuneCountInString(lines[0])*scale, 2*len(lines)*scale))
	for y, line := range lines {
		x := 0
		for _, r := range line {
			for half, dark := range [2]bool{r == '▀' || r == '█', r == '▄' || r == '█'} {
				shade := color.Gray{255}
				if dark {
					shade.Y = 0
				}
				for dy := range scale {
					for dx := range scale {
						img.SetGray(x*scale+dx, (2*y+half)*scale+dy, shade)
					}
				}
			}
			x++
		}
	}
	return img
}
