# holes: what the instructions tell that are sensitive but do not trap.

HOLES := holes
HOLES_OUT := $(OUT)/holes

$(HOLES_OUT)/%.o: $(HOLES)/%.S Makefile $(HOLES)/holes.mk
	@mkdir -p $(@D)
	@echo '  CC  $<'
	$(Q)$(CC) $(GUEST_FLAGS) -MMD -c -o $@ $<

$(OUT)/holes.elf: $(HOLES_OUT)/holes.o $(PROBES)/probes.ld
	@echo '  LD  $@'
	$(Q)$(LD) $(GUEST_LDFLAGS) -T $(PROBES)/probes.ld -o $@ $<

-include $(HOLES_OUT)/holes.d
