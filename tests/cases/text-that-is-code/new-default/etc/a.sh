#!/bin/sh
2
3
4
five
